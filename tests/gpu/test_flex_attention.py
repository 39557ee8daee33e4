"""FlexAttention against the dense mask, forward and backward: its backward exists on a GPU alone."""

import pytest
import torch
from conftest import TINY

from diptych.models.mot import NOISY, TEXT, Layout, MoT, Slots

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_gradients_are_those_of_the_dense_mask():
    length = 256
    kind = torch.where(torch.arange(length) % 128 < 64, TEXT, NOISY)[None].cuda()
    positions = torch.zeros(1, length, 3, dtype=torch.long)
    positions[0, :, 0] = torch.arange(length) % 128
    positions[0, kind[0].cpu() == NOISY, 0] = 64
    document = (torch.arange(length) // 128)[None].cuda()
    slots = Slots(
        kind,
        positions.cuda(),
        document,
        torch.where(kind == NOISY, document, -1),
        torch.zeros_like(kind).bool(),
    )
    model = MoT(TINY).cuda()
    model.initialise(torch.Generator("cuda").manual_seed(0))
    gradients = []
    for flex in (False, True):
        layout = Layout.of(slots, flex=flex)
        torch.manual_seed(0)
        und, gen, _ = model(
            torch.randn(len(layout.und), TINY.width).cuda(),
            torch.randn(len(layout.gen), TINY.width).cuda(),
            layout,
        )
        model.zero_grad()
        (und.square().mean() + gen.square().mean()).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    for name, dense in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], dense, rtol=1e-3, atol=1e-5)

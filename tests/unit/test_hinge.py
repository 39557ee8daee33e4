"""The two forms of one computation: packed rows of training, and `read` and `denoise` of the hinge."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import TINY

from diptych.contracts import Given, Picture, Prompt, Sample, Stack, Turn
from diptych.data.conversations.packing import Batch, collate
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.frames import FrameBatch
from diptych.flow import FlowConfig, NoiseLaw, Objective
from diptych.models.mot import Experts, MoT
from diptych.request import RequestError, Role
from diptych.systems.u1.packed import JointTask
from diptych.systems.u1.system import U1System
from diptych.training.tasks.generate import GenerateTask

FLOW = FlowConfig(
    noise_scale=1.5,
    noise_scale_base_tokens=16,
    law=NoiseLaw(mean=0.8, std=0.8, shift=1.0),
    objective=Objective(sigma_min=0.05, loss_sigma_min=0.2),
)
SIZE = 32
WORDS = ("a cat above two carrots", "remove the red heart", "a cat", "how many dogs are there?")
EXPERTS = {
    "und_experts": Experts(count=4, per_token=2, width=24),
    "gen_experts": Experts(count=3, per_token=1, width=24, normalise=False),
}


@pytest.fixture(params=["dense", "experts"])
def system(request: pytest.FixtureRequest, tokenizer: TextTokenizer) -> U1System:
    changes = EXPERTS if request.param == "experts" else {}
    model = MoT(replace(TINY, vocab_size=tokenizer.vocab_size, **changes))
    model.initialise(torch.Generator().manual_seed(0))
    for name in ("second.weight", "second.bias"):
        generator = torch.Generator().manual_seed(1)
        torch.nn.init.normal_(model.pixel_head.get_parameter(name), std=0.1, generator=generator)
    return U1System(model, tokenizer, FLOW, native=SIZE)


def pictures(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (count, SIZE, SIZE, 3), dtype=np.uint8)


def rows(edit: list[bool]) -> tuple[list[Sample], list[Prompt], list[Stack]]:
    """The same requests as samples of training and as what the hinge reads."""
    drawn, sources = pictures(0, len(edit)), pictures(1, len(edit))
    samples, stacks = [], []
    for text, target, source, has_source in zip(WORDS, drawn, sources, edit, strict=True):
        media = (Picture(source),) if has_source else ()
        turns = (Turn("user", (*media, text)), Turn("assistant", (Picture(target, drawn=True),)))
        samples.append(Sample(turns, "edit" if has_source else "generate"))
        given = (Given(Role.SOURCE, torch.from_numpy(source).permute(2, 0, 1)),) if has_source else ()
        stacks.append(Stack(SIZE, SIZE, given=given))
    return samples, [Prompt(text) for text in WORDS], stacks


def packed(system: U1System, samples: list[Sample], text: torch.Tensor, media: torch.Tensor) -> Batch:
    documents = [
        system.template.write(sample, bool(no_text), bool(no_media))
        for sample, no_text, no_media in zip(samples, text, media, strict=True)
    ]
    one_a_row = [[index] for index in range(len(documents))]
    return collate(one_a_row, documents, list(range(7, 7 + len(documents))), system.tokenizer.ids["<|pad|>"])


def gradients(model: MoT) -> dict[str, torch.Tensor]:
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize(
    ("edit", "text", "media"),
    [
        ([False] * 4, [False] * 4, [False] * 4),
        ([True] * 4, [False] * 4, [False] * 4),
        ([False] * 4, [True, False, True, False], [False] * 4),
        ([True] * 4, [True, False, False, True], [False, False, False, True]),
        ([True, False, True, False], [True, True, False, False], [True, True, False, False]),
        ([True] * 4, [False, True, False, True], [True, False, False, True]),
    ],
    ids=["generate", "edit", "generate dropped", "edit dropped", "mixed", "media alone"],
)
def test_packed_loss_and_gradients_are_those_through_read_and_denoise(system, edit, text, media):
    samples, prompts, stacks = rows(edit)
    no_text, no_media = torch.tensor(text), torch.tensor(media)
    batch = packed(system, samples, no_text, no_media)
    loss = JointTask(system.model, FLOW)(batch).sums["flow"]
    loss.backward()
    expected = gradients(system.model)

    frames = FrameBatch(
        prompts=tuple(prompts),
        stacks=tuple(stacks),
        pixels=torch.cat(batch.noisy)[:, None],
        target=torch.zeros(0),
        noise=torch.cat(batch.noise)[:, None],
        level=batch.level,
        drop_text=no_text,
        drop_media=no_media,
        # a picture counts as the square root of its tokens
        weight=torch.full((len(edit),), float(SIZE // system.token)),
    )
    hinge = GenerateTask(system, FLOW.law, FLOW.objective)(frames).sums["flow"]
    hinge.backward()

    torch.testing.assert_close(hinge, loss, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(system.model).items():
        limit = 1e-5 * max(1.0, float(expected[name].abs().max()))
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=limit, msg=name)
    assert any(float(g.abs().max()) > 1e-3 for name, g in expected.items() if ".und." in name)


def test_every_parameter_has_a_gradient_whatever_the_rows_hold(system):
    """Ranks of a sharded model reduce the same gradients, though their rows differ."""
    generate, _, _ = rows([False] * 4)
    edit, _, _ = rows([True] * 4)
    text = [Sample((Turn("assistant", ("a cat",)),), "text")]
    keep = torch.zeros(4, dtype=torch.bool)
    empty = collate([[]], [], [], system.tokenizer.ids["<|pad|>"])
    for batch in (
        packed(system, generate, keep, keep),
        packed(system, edit, keep, keep),
        packed(system, text, keep[:1], keep[:1]),
        empty,
    ):
        losses = JointTask(system.model, FLOW)(batch)
        (losses.sums["text"] + losses.sums["flow"]).backward()
        assert not [name for name, p in system.model.named_parameters() if p.grad is None]
        assert all(bool(p.grad.isfinite().all()) for p in system.model.parameters())
        system.model.zero_grad(set_to_none=True)
    assert losses.sums["text"].item() == losses.sums["flow"].item() == 0.0


def denoised(system: U1System, condition, sigma: torch.Tensor) -> torch.Tensor:
    x = torch.randn(len(condition), 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    return system.denoise(x, sigma, condition)


@torch.no_grad()
@pytest.mark.parametrize("read_before", [False, True])
def test_rows_dropped_chosen_and_joined_are_what_they_are_alone(system, read_before):
    _, prompts, stacks = rows([True, False, True, False])
    sigma = torch.tensor([0.9, 0.2, 0.5, 0.7])
    condition = system.read(prompts, stacks)
    if read_before:
        condition.prepare()
    text, media = torch.tensor([True, False, False, True]), torch.tensor([False, False, True, False])
    dropped = condition.dropped(text, media)
    alone = [
        system.read([prompt], [stack]).dropped(text[i : i + 1], media[i : i + 1])
        for i, (prompt, stack) in enumerate(zip(prompts, stacks, strict=True))
    ]
    together = denoised(system, dropped, sigma)
    joined = denoised(system, alone[0].joined(alone[1:]), sigma)
    torch.testing.assert_close(together, joined, rtol=0, atol=1e-5)
    x = torch.randn(4, 1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(4))
    back = system.denoise(x.flip(0), sigma.flip(0), dropped.rows([3, 2, 1, 0])).flip(0)
    torch.testing.assert_close(together, back, rtol=0, atol=1e-5)
    for row, condition in enumerate(alone):
        single = system.denoise(x[row : row + 1], sigma[row : row + 1, None], condition)
        torch.testing.assert_close(together[row : row + 1], single, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_negative_prompt_stands_in_the_place_of_the_text(system):
    _, _, stacks = rows([True] * 4)
    yes, sigma = torch.ones(1, dtype=torch.bool), torch.tensor([0.6])

    def drawn(prompt: Prompt, no_text: bool, no_media: bool) -> torch.Tensor:
        condition = system.read([prompt], stacks[:1])
        if no_text or no_media:
            condition = condition.dropped(yes & no_text, yes & no_media)
        return denoised(system, condition, sigma)

    negative = Prompt("a cat", negative="a dog")
    assert torch.equal(drawn(negative, False, False), drawn(Prompt("a cat"), False, False))
    assert torch.equal(drawn(negative, True, False), drawn(Prompt("a dog"), False, False))
    assert torch.equal(drawn(negative, True, True), drawn(Prompt("a dog"), False, True))
    assert not torch.equal(drawn(Prompt("a cat"), True, False), drawn(Prompt("a cat"), False, False))


def test_what_this_model_cannot_read_is_refused(system):
    frame = Given(Role.CONTROL, torch.zeros(3, SIZE, SIZE, dtype=torch.uint8))
    with pytest.raises(RequestError, match="reads no control"):
        system.read([Prompt("a")], [Stack(SIZE, SIZE, given=(frame,))])
    with pytest.raises(ValueError, match="got 2 frames"):
        system.read([Prompt("a")], [Stack(SIZE, SIZE, times=(0, 1))])
    with pytest.raises(ValueError, match="multiples of 8"):
        system.read([Prompt("a")], [Stack(30, SIZE)])
    with pytest.raises(ValueError, match="all rows of a batch draw one size"):
        system.read([Prompt("a")] * 2, [Stack(SIZE, SIZE), Stack(SIZE, 16)])
    one, other = system.read([Prompt("a")], [Stack(SIZE, SIZE)]), system.read([Prompt("a")], [Stack(16, 16)])
    with pytest.raises(ValueError, match="32x32 and 16x16"):
        one.joined([other])
    with pytest.raises(ValueError, match="got 2 frames"):
        system.denoise(torch.zeros(1, 2, 3, SIZE, SIZE), torch.ones(1), one)
    with pytest.raises(ValueError, match="embeds no guidance"):
        one.with_guidance(torch.ones(1))
    with pytest.raises(ValueError, match="sigma_min must be above 0"):
        U1System(system.model, system.tokenizer, FlowConfig(objective=Objective()), SIZE)

"""Properties of the mixture of transformers that no weights are needed for."""

import pytest
import torch
from conftest import TINY

from diptych.models.mot import (
    CLEAN,
    NOISY,
    PAD,
    TEXT,
    Layout,
    MoT,
    Slots,
    by_size,
    may_see,
    picture_positions,
    u1_8b,
    u1_a3b,
)
from diptych.models.mot.layers import rotate, rotation_tables


def a_row() -> Slots:
    """text text <img> 4 noisy </img>(dead) | <img>(dead) 4 clean </img> text, then a second document and
    padding."""
    kind = torch.tensor(
        [[TEXT] * 3 + [NOISY] * 4 + [TEXT] + [TEXT] + [CLEAN] * 4 + [TEXT] * 2 + [TEXT] * 3 + [PAD] * 2]
    )
    time = [0, 1, 2] + [3] * 4 + [4] + [2] + [3] * 4 + [4, 5] + [0, 1, 2] + [0, 0]
    grid = (
        [(0, 0)] * 3
        + [(0, 0), (0, 1), (1, 0), (1, 1)]
        + [(0, 0)] * 2
        + [(0, 0), (0, 1), (1, 0), (1, 1)]
        + [(0, 0)] * 7
    )
    positions = torch.tensor([[(t, h, w) for t, (h, w) in zip(time, grid, strict=True)]])
    document = torch.tensor([[0] * 15 + [1] * 3 + [-1] * 2])
    picture = torch.tensor([[-1] * 3 + [0] * 4 + [-1] * 2 + [1] * 4 + [-1] * 7])
    dead = torch.zeros_like(kind, dtype=torch.bool)
    dead[0, [7, 8]] = True
    return Slots(kind, positions, document, picture, dead)


def run(
    model: MoT, slots: Slots, noisy: torch.Tensor, text_seed: int = 0, flex: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    layout = Layout.of(slots, flex=flex)
    und = torch.randn(len(layout.und), model.config.width, generator=torch.Generator().manual_seed(text_seed))
    return model(und, noisy, layout)


@torch.no_grad()
def test_noisy_picture_is_invisible_to_all_text_and_to_its_clean_copy(tiny_model):
    slots = a_row()
    before, _ = run(tiny_model, slots, torch.randn(4, TINY.width))
    after, _ = run(tiny_model, slots, torch.randn(4, TINY.width))
    torch.testing.assert_close(before, after, rtol=0, atol=0)


@torch.no_grad()
def test_noisy_picture_does_not_see_its_own_clean_copy(tiny_model):
    slots, noisy = a_row(), torch.randn(4, TINY.width)
    layout = Layout.of(slots)
    und = torch.randn(len(layout.und), TINY.width)
    changed = und.clone()
    changed[slots.kind[0][layout.und] == CLEAN] += 1.0
    torch.testing.assert_close(
        tiny_model(und, noisy, layout)[1], tiny_model(changed, noisy, layout)[1], rtol=0, atol=0
    )


@torch.no_grad()
def test_documents_of_one_row_do_not_see_each_other(tiny_model):
    slots, noisy = a_row(), torch.randn(4, TINY.width)
    layout = Layout.of(slots)
    und = torch.randn(len(layout.und), TINY.width)
    changed = und.clone()
    changed[slots.document[0][layout.und] == 1] += 1.0
    first = slots.document[0][layout.und] == 0
    before, after = tiny_model(und, noisy, layout), tiny_model(changed, noisy, layout)
    torch.testing.assert_close(before[0][first], after[0][first], rtol=0, atol=0)
    torch.testing.assert_close(before[1], after[1], rtol=0, atol=0)


def test_mask_of_a_row_by_hand():
    mask = may_see(a_row())[0, 0]
    assert mask[1, 0]
    assert not mask[0, 1]  # text is causal
    assert mask[3, 6]
    assert mask[6, 3]  # a picture is bidirectional
    assert mask[9, 12]
    assert not mask[14, 3]  # later text does not see the noisy copy
    assert mask[14, 9]  # but the clean one
    assert not mask[3, 9]  # the noisy copy does not see its clean copy
    assert not mask[:, [7, 8]].any()  # doubled marks are dead keys
    assert not mask[15, 0]  # another document


@torch.no_grad()
def test_flex_attention_equals_the_dense_mask(tiny_model):
    slots, noisy = a_row(), torch.randn(4, TINY.width)
    real = (slots.kind[0] != PAD).nonzero().flatten()
    assert len(real) == 18
    for dense, flex in zip(
        run(tiny_model, slots, noisy), run(tiny_model, slots, noisy, flex=True), strict=True
    ):
        torch.testing.assert_close(dense, flex, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_prefix_cache_equals_one_pass_over_everything(tiny_model):
    """A noisy picture after a cached prefix is what it is in a packed row."""
    length, time = 5, torch.tensor([5])
    und = torch.randn(1, length, TINY.width)
    positions = torch.zeros(1, length, 3, dtype=torch.long)
    positions[0, :, 0] = torch.arange(length)
    picture = torch.randn(1, 3, 16, 16)
    sigma, scale = torch.tensor([0.4]), torch.tensor([1.0])
    zeros = torch.zeros(1, length, dtype=torch.long)
    slots = Slots(torch.full((1, length), TEXT), positions, zeros, zeros - 1, zeros.bool())
    _, cache = tiny_model.prefix(und, positions, torch.tensor([length]), may_see(slots))
    cached = tiny_model.denoise(picture, sigma, scale, cache)

    gen = tiny_model.embed_noisy(picture, sigma, scale)
    both = torch.cat([positions, picture_positions(2, 2, time)], 1)
    kind = torch.cat([slots.kind, torch.full((1, 4), NOISY)], 1)
    row = Slots(
        kind, both, torch.zeros_like(kind), torch.where(kind == NOISY, 0, -1), torch.zeros_like(kind).bool()
    )
    _, hidden = tiny_model(und[0], gen, Layout.of(row))
    torch.testing.assert_close(tiny_model.pixel_head(hidden, 2, 2), cached, rtol=1e-5, atol=1e-5)


def test_rotation_depends_on_distance_alone():
    x, y = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

    def score(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
        tables = [rotation_tables(torch.tensor([p]), 16, 1e4, 100.0) for p in (a, b)]
        return float((rotate(x, *tables[0]) * rotate(y, *tables[1])).sum())

    assert score((5, 2, 1), (3, 1, 1)) == pytest.approx(score((9, 3, 4), (7, 2, 4)), abs=1e-5)
    assert score((5, 2, 1), (3, 1, 1)) != pytest.approx(score((5, 2, 1), (3, 1, 2)), abs=1e-4)


def test_published_sizes_have_the_published_parameter_counts():
    with torch.device("meta"):
        dense, moe = MoT(u1_8b()), MoT(u1_a3b())

    def count(model: MoT, *parts: str) -> float:
        return sum(p.numel() for n, p in model.named_parameters() if any(part in n for part in parts)) / 1e9

    shared = count(dense, "embedding.", "text_head.")
    assert shared == pytest.approx(1.245, abs=0.002)
    assert count(dense, ".und.") == pytest.approx(8.121, abs=0.03)
    assert count(dense, ".gen.") == pytest.approx(8.121, abs=0.03)
    total = sum(p.numel() for p in dense.parameters()) / 1e9
    assert total == pytest.approx(17.54, abs=0.03)
    # 8.121 B and 8.167 B with interfaces and heads; A3B: 30.0 B with the shared matrices, and 8.2 B
    assert count(moe, ".und.", "embedding.weight", "text_head.") == pytest.approx(30.5, abs=0.5)
    assert count(moe, ".gen.") == pytest.approx(8.2, abs=0.2)


def test_starting_values_are_made_one_by_one_on_a_model_without_storage():
    with torch.device("meta"):
        empty = MoT(TINY)
    model = MoT(TINY)
    model.initialise(torch.Generator().manual_seed(3))
    values = dict(empty.starting_values(torch.Generator().manual_seed(3)))
    assert values.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(values[name], p) for name, p in model.named_parameters())
    block = model.new_block(torch.Generator().manual_seed(4))
    assert {name: t.shape for name, t in block.items()} == {
        name: t.shape for name, t in model.blocks[0].state_dict().items()
    }


@torch.no_grad()
def test_rows_of_caches_are_chosen_and_joined(tiny_model):
    """A padded row reads and writes on as it does alone."""
    lengths = (3, 6, 4)
    unds = [torch.randn(1, length, TINY.width) for length in lengths]
    caches = [prefix_of(tiny_model, und) for und in unds]
    joined = caches[0].joined(caches[1:])
    assert joined.valid.sum(1).tolist() == list(lengths)
    chosen = joined.rows([2, 0])
    assert chosen.valid.shape == (2, 4)
    tokens = torch.randn(3, TINY.width)
    together, longer = tiny_model.extend(tokens, joined)
    again, _ = tiny_model.extend(tokens[[2, 0]], longer.rows([2, 0]))
    for row, cache in enumerate(caches):
        alone, own = tiny_model.extend(tokens[row : row + 1], cache)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)
        if row != 1:
            at = [2, 0].index(row)
            next_alone, _ = tiny_model.extend(tokens[row : row + 1], own)
            torch.testing.assert_close(again[at : at + 1], next_alone, rtol=1e-5, atol=1e-5)


def prefix_of(model: MoT, und: torch.Tensor):
    length = und.shape[1]
    positions = torch.zeros(1, length, 3, dtype=torch.long)
    positions[0, :, 0] = torch.arange(length)
    zeros = torch.zeros(1, length, dtype=torch.long)
    slots = Slots(torch.full((1, length), TEXT), positions, zeros, zeros - 1, zeros.bool())
    return model.prefix(und, positions, torch.tensor([length]), may_see(slots))[1]


def test_fresh_model_predicts_gray():
    model = MoT(TINY)
    model.initialise(torch.Generator().manual_seed(0))
    assert model.pixel_head(torch.randn(4, TINY.width), 2, 2).abs().max() == 0


@pytest.mark.parametrize(
    "bad",
    [{"head": "x"}, {"head_dim": 12}, {"kv_heads": 3}, {"kv_heads": 0}, {"width": -4}, {"vision_width": 6}],
)
def test_config_refuses_sizes_that_do_not_fit(bad: dict):
    values = {
        "vocab_size": 10,
        "width": 32,
        "depth": 1,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "ffn_width": 32,
        **bad,
    }
    with pytest.raises(ValueError, match=next(iter(bad))):
        type(TINY)(**values)


def test_the_dial_grows_everything():
    small, large = by_size(4, 700, 8), by_size(8, 700, 8)
    assert large.width == 2 * small.width
    assert large.depth == 2 * small.depth
    with pytest.raises(ValueError, match="size"):
        by_size(0, 700, 8)

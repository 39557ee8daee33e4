"""Bridges: where queries stand, under padding on either side; what learns through a frozen language model."""

import dataclasses

import pytest
import torch
from torch import nn

from diptych.models.connector import Bridge, BridgeConfig

WIDTH, QUERIES, MARK = 16, 3, 19


class Causal(nn.Module):
    """A language model: each state is made of itself, of all before it and of its place."""

    channels = WIDTH

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.mix = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.requires_grad_(False)

    def tokens(self, text: str) -> list[int]:
        return [ord(letter) % 20 for letter in text]

    def embed(self, ids):
        return self.embedding(ids)

    def hidden(self, embeddings, mask):
        return self.states(embeddings, mask, [-1])

    def states(self, embeddings, mask, layers):
        place = torch.arange(mask.shape[1])[None, :, None]
        before = (embeddings * mask[..., None]).cumsum(1) / (place + 1)
        every = [embeddings, 3 * before, self.mix(before + torch.sin(place.float())).tanh()]
        return torch.cat([every[layer] for layer in layers], -1)


BACKBONE = Causal()
KINDS = {
    "queries": BridgeConfig(inputs=WIDTH, queries=QUERIES),
    "connector": BridgeConfig(kind="connector", inputs=WIDTH, queries=QUERIES, depth=2, heads=2, outputs=10),
    "states": BridgeConfig(kind="states", inputs=WIDTH, layers=(0, 1, -1)),
}


def bridge(kind: str) -> Bridge:
    made = Bridge(KINDS[kind])
    made.load_state_dict(dict(made.starting_values(torch.Generator().manual_seed(1))))
    return made


def padded(rows: list[list[int]], left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, rows)) + 2
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
    for at, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[at, place], mask[at, place] = torch.tensor(row), 1.0
    return ids, mask.bool()


ROWS = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_is_read_alike_whatever_it_is_padded_with(kind):
    made = bridge(kind)
    alone = [made(BACKBONE, *padded([row], left=False)) for row in ROWS]
    for left in (False, True):
        states, mask = made(BACKBONE, *padded(ROWS, left))
        assert states.shape[2] == made.outputs == KINDS[kind].channels
        for row, (expected, seen) in enumerate(alone):
            torch.testing.assert_close(states[row, mask[row]], expected[0, seen[0]], atol=1e-6, rtol=1e-6)
            assert not states[row, ~mask[row]].any()


@pytest.mark.parametrize("left", [False, True])
def test_queries_stand_behind_the_mark_and_what_follows_is_not_read(left):
    made = bridge("queries")
    plain, _ = made(BACKBONE, *padded([[1, 2, MARK], [3, MARK]], left))
    ids, mask = padded([[1, 2, MARK, 11, 11, 11], [3, MARK, 12]], left)
    marked, seen = made(BACKBONE, ids, mask, MARK)
    torch.testing.assert_close(marked, plain, atol=1e-6, rtol=1e-6)
    assert seen.all()
    other, _ = made(BACKBONE, ids, mask)
    assert not torch.allclose(other, plain)


def test_the_queries_are_where_the_language_model_would_have_them():
    made = bridge("queries")
    row = torch.tensor([[1, 2, 3]])
    joined = torch.cat([BACKBONE.embed(row), made.queries], 1)
    expected = BACKBONE.hidden(joined, torch.ones(1, 6, dtype=torch.bool))[:, 3:]
    states, _ = made(BACKBONE, row, torch.ones_like(row))
    torch.testing.assert_close(states, expected)


def test_pictures_stand_among_the_words_by_their_embeddings():
    made = bridge("queries")
    ids, mask = padded(ROWS, left=False)
    embeddings = BACKBONE.embed(ids)
    shown = embeddings.clone()
    shown[0, 1] += 1
    same, _ = made(BACKBONE, ids, mask, embeddings=embeddings)
    seen, _ = made(BACKBONE, ids, mask, embeddings=shown)
    assert torch.equal(same, made(BACKBONE, ids, mask)[0])
    assert not torch.allclose(seen[0], same[0])
    assert torch.equal(seen[1], same[1])


@pytest.mark.parametrize("kind", ["queries", "connector"])
def test_gradients_pass_through_a_frozen_language_model(kind):
    made = bridge(kind)
    states, _ = made(BACKBONE, *padded(ROWS, left=True))
    states.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in made.parameters())
    assert all(parameter.grad is None for parameter in BACKBONE.parameters())


def test_queries_are_causal_and_a_connector_is_not():
    for kind, sees in (("queries", False), ("connector", True)):
        made = bridge(kind)
        before, _ = made(BACKBONE, *padded(ROWS, left=False))
        with torch.no_grad():
            made.queries[0, -1] += 1
        after, _ = made(BACKBONE, *padded(ROWS, left=False))
        assert torch.allclose(before[:, 0], after[:, 0]) != sees


def test_states_have_nothing_to_learn_and_may_be_cached():
    made = bridge("states")
    assert made.cacheable
    assert not list(made.parameters())
    assert not bridge("queries").cacheable
    last = Bridge(BridgeConfig(kind="states", inputs=WIDTH))
    row = torch.tensor([[1, 2, 3]])
    states, _ = last(BACKBONE, row, torch.ones_like(row))
    expected = BACKBONE.hidden(BACKBONE.embed(row), torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(states, expected)


def test_what_a_bridge_does_not_read():
    made = bridge("queries")
    ids, mask = padded(ROWS, left=False)
    with pytest.raises(ValueError, match="row 0 holds the mark 19 0 times"):
        made(BACKBONE, ids, mask, MARK)
    with pytest.raises(ValueError, match="row 1 holds the mark 19 2 times"):
        made(BACKBONE, *padded([[1, MARK], [MARK, MARK]], left=True), MARK)
    with pytest.raises(ValueError, match="a prompt has no token"):
        made(BACKBONE, ids, mask & False)

    class Shallow:
        channels = WIDTH
        tokens, embed, hidden = BACKBONE.tokens, BACKBONE.embed, BACKBONE.hidden

    with pytest.raises(ValueError, match="gives its last layer alone"):
        bridge("states")(Shallow(), ids, mask)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "rope"}, "kind must be one of"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"depth": 3}, "a bridge of queries has no blocks"),
        ({"layers": (1, 2)}, "reads the last layer alone"),
        ({"kind": "states", "layers": ()}, "reads the last layer alone"),
        ({"kind": "connector", "heads": 5}, "heads must divide the 16 channels"),
        ({"query_std": 0.0}, "query_std must be above 0"),
    ],
)
def test_sizes_that_cannot_be(wrong, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(KINDS["queries"], **wrong)

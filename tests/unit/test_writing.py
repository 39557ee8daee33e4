"""Writing: caches that grow, the choice of tokens, and the text that comes out piece by piece."""

import dataclasses
import itertools
import math

import pytest
import torch
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from torch import Tensor

from diptych.contracts import AnswerLimits
from diptych.data.conversations.tokens import TextTokenizer
from diptych.models.mot import CLEAN, PAD, TEXT, Cache, MoT, Slots, may_see, picture_positions
from diptych.models.mot.cache import ROOM
from diptych.models.mot.model import attend
from diptych.surgery import fast, pack
from diptych.systems.u1.writing import Speech, Writer, say

SHARED = dataclasses.replace(TINY, heads=4, kv_heads=2)


def a_model(config=SHARED, seed: int = 0) -> MoT:
    model = MoT(config)
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def text_positions(rows: int, length: int, start: int = 0) -> Tensor:
    positions = torch.zeros(rows, length, 3, dtype=torch.long)
    positions[..., 0] = torch.arange(start, start + length)
    return positions


@torch.no_grad()
def read(model: MoT, rows: list[list[int]]) -> tuple[Tensor, Cache]:
    """Rows of text of any lengths -> the state of each one's last token, and their cache."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    hidden, cache = model.prefix(model.embedding(ids), text_positions(*ids.shape), lengths, None)
    return hidden[torch.arange(len(rows)), lengths - 1], cache


def writer(model: MoT, rows: list[list[int]]) -> Writer:
    return Writer(model, *read(model, rows))


def written(model: MoT, rows: list[list[int]], limits: AnswerLimits, ends=(7,)) -> list[list[int | None]]:
    steps = list(writer(model, rows).tokens(limits, ends, 10))
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


PROMPTS = [[5, 9, 11, 200, 4], [3], [250, 7, 7, 8, 9, 10, 11, 12, 40], [1, 2, 3]]


@torch.no_grad()
def test_text_needs_no_mask_of_every_pair():
    model, ids = a_model(), torch.tensor([[5, 9, 11, 200, 4], [3, 8, 0, 0, 0]])
    kind = torch.where(torch.arange(5) < torch.tensor([[5], [2]]), TEXT, PAD)
    positions, zeros = text_positions(2, 5), torch.zeros_like(ids)
    mask = may_see(Slots(kind, positions, zeros, zeros - 1, zeros.bool()))
    lengths = torch.tensor([5, 2])
    dense, _ = model.prefix(model.embedding(ids), positions, lengths, mask)
    causal, _ = model.prefix(model.embedding(ids), positions, lengths, None)
    torch.testing.assert_close(causal[kind == TEXT], dense[kind == TEXT], rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "causal", "of keys", "of pairs"])
def test_heads_that_share_keys_attend_as_if_each_had_its_own(kind):
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 2, 5, 8)
    pairs = torch.rand(2, 1, 5, 5) > 0.4
    pairs[..., 0] = True
    mask = {"of keys": pairs[:, :, :1], "of pairs": pairs}.get(kind)
    causal = kind == "causal"
    shared = attend(q, k, v, mask, causal)
    torch.testing.assert_close(
        shared, attend(q, k.repeat_interleave(3, 1), v.repeat_interleave(3, 1), mask, causal)
    )
    if causal:
        torch.testing.assert_close(shared, attend(q, k, v, torch.ones(2, 1, 5, 5).tril().bool()))


@torch.no_grad()
def test_tokens_put_one_by_one_or_together_are_those_of_one_reading():
    """Over the border at which the room of a cache grows."""
    model, more = a_model(), torch.randint(0, 300, (2, ROOM + 20)).tolist()
    start = [[5, 9, 11], [3, 8, 12]]
    whole = writer(model, [a + b for a, b in zip(start, more, strict=True)])
    single, block = writer(model, start), writer(model, start)
    for step in zip(*more, strict=True):
        single.put([[token] for token in step])
    block.put(more)
    for found in (single, block):
        torch.testing.assert_close(found.logits, whole.logits, rtol=0, atol=1e-5)
        assert found.cache.next_time.tolist() == whole.cache.next_time.tolist()
        for own, other in zip(found.cache.layers, whole.cache.layers, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=1e-5)


def test_memory_is_copied_once_a_room_and_not_once_a_token():
    rows = writer(a_model(), [[5, 9, 11]])
    places = []
    for token in range(ROOM + 2):
        rows.put([[token]])
        places.append(rows.cache.layers[0][0].data_ptr())
    assert len(set(places)) == 2
    assert places[ROOM - 4] == places[0] != places[ROOM - 3]


def test_a_cache_stays_what_it_was_while_rows_grow_from_it():
    model = a_model()
    first = writer(model, [[5, 9, 11], [3]])
    first.put([[1], [2]])
    shared, logits = first.cache, first.logits
    before = [(k.clone(), v.clone()) for k, v in shared.layers]
    second = writer(model, [[5, 9, 11], [3]])
    second.cache, second.logits = shared, logits
    first.put([[4, 6], [4, 6]])
    second.put([[8, 8], [8, 8]])
    assert all(
        torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(before, shared.layers, strict=True)
    )
    for rows, tokens in ((first, [4, 6]), (second, [8, 8])):
        again = writer(model, [[5, 9, 11], [3]])
        for token in ([1, 2], *([token] * 2 for token in tokens)):
            again.put([[one] for one in token])
        torch.testing.assert_close(rows.logits, again.logits, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("marks", [False, True])
def test_a_picture_behind_a_cache_is_read_as_in_one_pass(ragged, marks):
    model = a_model()
    prompts = [[5, 9, 11, 30], [3, 8]] if ragged else [[5, 9, 11, 30]]
    tokens = torch.randn(6, SHARED.width)
    rows = writer(model, prompts)
    block = picture_positions(2, 3, rows.cache.next_time)
    und = tokens.expand(len(prompts), -1, -1)
    if marks:
        mark = model.embedding(torch.tensor([60]))
        und = torch.cat([und, mark.expand(len(prompts), -1, -1)], 1)
        block = torch.cat(
            [block, text_positions(len(prompts), 1) + (block[:, -1:] + 1) * torch.tensor([1, 0, 0])], 1
        )
    rows.append(und, block)
    for row, prompt in enumerate(prompts):
        length = len(prompt) + und.shape[1]
        positions = torch.cat([text_positions(1, len(prompt)), block[row : row + 1]], 1)
        kind = torch.tensor([[TEXT] * len(prompt) + [CLEAN] * 6 + [TEXT] * (und.shape[1] - 6)])
        picture = torch.where(kind == CLEAN, 0, -1)
        mask = may_see(Slots(kind, positions, torch.zeros_like(kind), picture, torch.zeros_like(kind).bool()))
        read_first = torch.cat([model.embedding(torch.tensor([prompt])), und[row : row + 1]], 1)
        hidden, cache = model.prefix(read_first, positions, torch.tensor([length]), mask)
        torch.testing.assert_close(rows.logits[row], model.text_head(hidden[0, -1]), rtol=0, atol=1e-5)
        assert rows.cache.next_time[row] == cache.next_time[0]


@given(
    st.lists(st.lists(st.integers(0, 299), min_size=1, max_size=9), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.7, 2.0]),
    st.sampled_from([1.0, 0.6]),
    st.integers(0, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_batch_writes_what_each_of_its_rows_writes_alone(rows, temperature, top_p, seed):
    # logits far apart: a batch of other lengths may round the last digit otherwise
    model = a_model()
    model.text_head.weight.data *= 8
    limits = AnswerLimits(temperature=temperature, top_p=top_p, seed=seed, max_tokens=6)
    ends = range(0, 300, 5)
    together = written(model, rows, limits, ends)
    assert together == [written(model, [row], limits, ends)[0] for row in rows]
    for tokens in together:
        assert not any(token in ends for token in tokens[:-1])
        assert len(tokens) == 6 or tokens[-1] in ends


def test_seeds_repeat_and_differ():
    model = a_model()
    drawn = [
        written(model, PROMPTS, AnswerLimits(temperature=1.5, seed=seed, max_tokens=8), ())
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = written(model, PROMPTS, AnswerLimits(max_tokens=8), ())
    assert written(model, PROMPTS, AnswerLimits(temperature=1.5, top_p=1e-6, max_tokens=8), ()) == greedy
    assert written(model, PROMPTS, AnswerLimits(temperature=1e-4, max_tokens=8), ()) == greedy


@pytest.mark.parametrize(("top_p", "kept"), [(1.0, [0, 1, 2, 3]), (0.81, [0, 1, 2]), (0.5, [0])])
def test_tokens_are_drawn_by_their_probabilities(top_p, kept):
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    rows, temperature = 1, 2.0
    model = a_model()
    one = writer(model, [[5]] * rows)
    limits = AnswerLimits(temperature=temperature, top_p=top_p, seed=3, max_tokens=4000)
    counts = torch.zeros(4)
    # the same logits in every step; the tokens that are put back do not matter
    one.put = lambda tokens: None  # type: ignore[method-assign]
    one.logits = (probabilities.log() * temperature)[None]
    for (token,) in one.tokens(limits, (), 1):
        counts[token] += 1
    share = probabilities[kept] / probabilities[kept].sum()
    assert counts.nonzero().flatten().tolist() == kept
    torch.testing.assert_close(counts[kept] / 4000, share, rtol=0, atol=0.03)


def test_most_likely_tokens_are_found_in_a_large_vocabulary():
    """More of them than are looked at first."""
    one = writer(a_model(), [[5]])
    one.put = lambda tokens: None  # type: ignore[method-assign]
    one.logits = torch.zeros(1, 5000)
    one.logits[0, 4000:] = -1.0
    limits = AnswerLimits(temperature=1.0, top_p=0.9, seed=0, max_tokens=3000)
    drawn = {token for (token,) in one.tokens(limits, (), 1)}
    assert len(drawn) > 1500
    assert max(drawn) < 4600


def test_what_may_follow_is_kept_to_at_any_temperature():
    model = a_model()
    grammar = {0: [11, 12], 1: [13], 2: []}
    for temperature in (0.0, 3.0):
        limits = AnswerLimits(temperature=temperature, allowed_tokens=lambda ids: grammar[len(ids)])
        for row in written(model, PROMPTS, limits):
            assert row[0] in (11, 12)
            assert row[1:] == [13]


def test_a_row_that_is_stopped_ends_and_the_others_go_on():
    rows = writer(a_model(), PROMPTS)
    steps = []
    for step in rows.tokens(AnswerLimits(), (), 5):
        steps.append(step)
        if len(steps) == 2:
            rows.stop(1)
    assert [row[1] is None for row in steps] == [False, False, True, True, True]
    assert all(row[other] is not None for row in steps for other in (0, 2, 3))
    alone = written(a_model(), [PROMPTS[2]], AnswerLimits(max_tokens=5), ())[0]
    assert [step[2] for step in steps] == alone


def test_in_the_end_a_single_row_holds_all_but_its_last_token():
    model = a_model()
    rows = writer(model, [[5, 9]])
    tokens = [token for (token,) in rows.tokens(AnswerLimits(max_tokens=4), (), 1)]
    assert rows.cache.next_time.tolist() == [5]
    rows.put([[tokens[-1]]])
    torch.testing.assert_close(rows.logits, writer(model, [[5, 9, *tokens]]).logits, rtol=0, atol=1e-5)


ODD = "a 世界 é🙂 \n ﷽ "


@given(st.text(alphabet=ODD + "bcST ", max_size=30), st.booleans())
@settings(max_examples=150, deadline=None)
def test_pieces_are_the_text_and_no_piece_ends_within_a_character(tokenizer, text, strip):
    ids = tokenizer.encode(text)
    speech = Speech(tokenizer, strip=strip)
    pieces = [*(speech.add(token) for token in ids), speech.finish()]
    whole = tokenizer.decode_exactly(ids)
    assert "".join(pieces) == (whole.strip() if strip else whole)
    assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, 255), max_size=12))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_text_are_shown_as_a_decoder_shows_them(tokenizer, raw):
    single = sorted(number for token, number in tokenizer.inner.get_vocab().items() if len(token) == 1)
    assert len(single) == 256
    ids = [single[byte] for byte in raw]
    speech = Speech(tokenizer, strip=False)
    assert "".join([*map(speech.add, ids), speech.finish()]) == tokenizer.decode_exactly(ids)


@given(
    st.text(alphabet="aST \n世", max_size=25),
    st.lists(st.text(alphabet="aST \n世", min_size=1, max_size=4), min_size=1, max_size=3),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_an_answer_ends_before_the_stop_text_that_is_complete_first(tokenizer, text, stops, strip):
    ids = tokenizer.encode(text)
    whole = tokenizer.decode_exactly(ids)
    found = [(place + len(stop), place) for stop in stops if (place := whole.find(stop)) >= 0]
    first = min(found)[1] if found else None
    speech = Speech(tokenizer, stops, strip)
    said = ""
    for token in ids:
        said += speech.add(token)
        # nothing is taken back: what was said is what the answer begins with
        assert whole[:first].strip().startswith(said) if strip else whole[:first].startswith(said)
    said += speech.finish()
    assert said == (whole[:first].strip() if strip else whole[:first])
    assert speech.stopped == (first is not None)


@pytest.fixture
def words() -> TextTokenizer:
    """Whole words are its tokens, and its decoder drops the space before the first."""
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(("▁a", "▁cat", "▁aST"))}))
    inner.decoder = decoders.Metaspace()
    return TextTokenizer(inner, marks=())


def test_a_word_keeps_its_space_whatever_the_decoder_makes_of_it_alone(words):
    speech = Speech(words)
    assert [speech.add(token) for token in (0, 1, 1, 0)] == ["a", " cat", " cat", " a"]


@pytest.mark.parametrize(
    ("stop", "said"), [(("ST", "aS"), "cat"), (("S", "aST"), "cat a"), (("ST", "aSTx"), "cat a")]
)
def test_of_several_stop_texts_in_one_token_the_one_that_is_complete_first_counts(words, stop, said):
    speech = Speech(words, stop)
    assert "".join([*(speech.add(token) for token in (1, 2, 1)), speech.finish()]) == said


def test_answers_of_a_batch_end_each_at_its_own_stop_text(tokenizer):
    model = a_model(dataclasses.replace(SHARED, vocab_size=tokenizer.vocab_size))
    limits, prompts = (
        AnswerLimits(max_tokens=24, temperature=1.0),
        [tokenizer.encode(t) for t in ("a cat", "a")],
    )
    pieces = list(say(writer(model, prompts), tokenizer, limits, (), 1))
    whole = ["".join(row) for row in zip(*pieces, strict=True)]
    stop = whole[0][4:7]
    limits = dataclasses.replace(limits, stop=(stop,))
    steps = list(say(writer(model, prompts), tokenizer, limits, (), 1))
    cut = ["".join(row) for row in zip(*steps, strict=True)]
    assert cut == [text.split(stop)[0].strip() if stop in text else text for text in whole]
    alone = list(say(writer(model, prompts[:1]), tokenizer, limits, (), 1))
    assert "".join(itertools.chain(*alone)) == cut[0]
    assert len(alone) < 24


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"temperature": math.nan}, "temperature must be at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be at least 0, got inf"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"stop": ("a", "")}, r"stop must be texts that are not empty, got \('a', ''\)"),
        ({"stop": "ab"}, "stop must be texts that are not empty, got 'ab'"),
    ],
)
def test_limits_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        AnswerLimits(**wrong)


@torch.no_grad()
def test_a_packed_model_writes_and_draws_the_same_and_is_saved_as_it_was(monkeypatch):
    monkeypatch.setattr(fast, "packing_pays", lambda: True)
    wide = dataclasses.replace(SHARED, width=512, ffn_width=768, head="linear", head_width=64)
    plain, packed = a_model(wide), a_model(wide)
    for model in (plain, packed):
        torch.nn.init.normal_(model.pixel_head.second.weight, generator=torch.Generator().manual_seed(1))
    pack(packed)
    layers = [module for module in packed.modules() if isinstance(module, fast.PackedLinear)]
    # the feed-forward of both streams in both blocks, and one layer of each scalar's embedder
    assert len(layers) == 2 * 2 * 3 + 2
    assert isinstance(packed.blocks[0].und.q, torch.nn.Linear)
    rows, other = writer(plain, PROMPTS), writer(packed, PROMPTS)
    torch.testing.assert_close(rows.logits, other.logits, rtol=1e-4, atol=1e-4)
    noise, sigma = torch.randn(4, 3, 16, 16), torch.tensor([0.9, 0.5, 0.3, 0.1])
    torch.testing.assert_close(
        packed.denoise(noise, sigma, torch.ones(4), other.cache),
        plain.denoise(noise, sigma, torch.ones(4), rows.cache),
        rtol=1e-4,
        atol=1e-4,
    )
    saved = packed.state_dict()
    assert saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(saved[name], value) for name, value in plain.state_dict().items())


def test_small_models_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(fast, "packing_pays", lambda: True)
    model = a_model()
    pack(model)
    assert not any(isinstance(module, fast.PackedLinear) for module in model.modules())

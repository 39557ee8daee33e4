"""Order, packing, tokens and readers."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diptych.contracts import CLEAN, NOISY, TEXT, BadSample, Picture, Sample, Turn
from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.loader import DocumentDataset, LoaderConfig
from diptych.data.conversations.packing import collate, pack
from diptych.data.conversations.readers import JsonlSource, TextSource, fit, within
from diptych.data.conversations.template import Template
from diptych.data.conversations.tokens import (
    NO_LABEL,
)
from diptych.data.mixture import BLOCK, Mixture, shuffled


def laid_out(tokenizer) -> Template:
    return Template(FORMS["marks"], tokenizer, 8)


class Numbers:
    """A source whose k-th sample says k."""

    def __init__(self, name: str, fail_at: int | None = None) -> None:
        self.name, self.fail_at = name, fail_at

    def draw(self, number: int) -> Sample:
        if number == self.fail_at:
            raise BadSample(f"{self.name}:{number}: broken on purpose")
        picture = Picture(np.full((8, 8, 3), number % 256, dtype=np.uint8), drawn=True)
        return Sample((Turn("user", (f"{self.name} {number}",)), Turn("assistant", (picture,))), self.name)


def mixture(seed: int = 0, **weights: float) -> Mixture:
    weights = weights or {"a": 0.7, "b": 0.3}
    return Mixture({name: Numbers(name) for name in weights}, weights, seed)


def test_every_block_holds_the_ratios_exactly_and_every_source_counts_up():
    mix = mixture(a=0.7, b=0.2, c=0.1)
    seen: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    for n in range(2 * BLOCK):
        source, number = mix.locate(n)
        seen[source.name].append(number)
    assert {name: len(numbers) for name, numbers in seen.items()} == {"a": 1400, "b": 400, "c": 200}
    assert all(numbers == list(range(len(numbers))) for numbers in seen.values())


def test_the_largest_remainders_get_what_rounding_left_over():
    assert mixture(a=1 / 3, b=1 / 3 + 1e-4, c=1 / 3 - 1e-4).quota.tolist() == [333, 334, 333]
    assert mixture(a=0.0006, b=0.9994).quota.tolist() == [1, 999]
    assert mixture(a=0.9994, b=0.0006).quota.tolist() == [999, 1]


def test_a_source_of_a_small_share_is_drawn_from_too():
    few = mixture(a=0.0004, b=0.9996)
    assert few.quota.tolist() == [4, 9996]
    names = [few.locate(n)[0].name for n in range(20_000)]
    assert names[:10_000].count("a") == names[10_000:].count("a") == 4
    with pytest.raises(ValueError, match="'a' has a share of 1e-07, less than one sample in 1,000,000"):
        mixture(a=1e-7, b=1.0)


def test_blocks_are_mixed_each_in_its_own_order():
    mix = mixture(a=0.5, b=0.5)
    names = ["".join(mix.locate(block * BLOCK + n)[0].name for n in range(BLOCK)) for block in range(2)]
    assert names[0] != names[1]
    # neither alternating nor one after the other
    assert max(map(len, names[0].replace("b", " ").split())) < 30
    assert names[0].count("ab") == pytest.approx(250, abs=60)
    assert [mixture(1, a=0.5, b=0.5).locate(n)[0].name for n in range(50)] != list(names[0][:50])


def test_each_source_is_shuffled_by_the_runs_seed():
    assert [shuffled(n, 50, 3) for n in range(50)] != [shuffled(n, 50, 4) for n in range(50)]
    assert [shuffled(n, 50, 3) for n in range(50)] != list(range(50))


class Edits:
    """Every sample draws a picture; with a source picture where asked."""

    def __init__(self, source: bool) -> None:
        self.name, self.source = "edits", source

    def draw(self, number: int) -> Sample:
        given = (a_picture(size=8),) if self.source else ()
        return Sample(
            (Turn("user", (*given, "cat")), Turn("assistant", (a_picture(True, 8),))),
            "edit",
            f"edit {number}",
        )


def dropped(
    tokenizer, source: bool, count: int = 600, seed: int = 0, **shares: float
) -> list[tuple[bool, bool]]:
    """(text, pictures) dropped from each sample of a run."""
    config = LoaderConfig(**{"drop_text": 0.2, "drop_all": 0.3, **shares})
    data = DocumentDataset(Mixture({"e": Edits(source)}, {"e": 1.0}, seed), laid_out(tokenizer), config)
    documents = [data.document(n) for n in range(count)]
    # four marks are there always; a source picture brings two more and a token
    return [((d.kind == TEXT).sum() - 2 * len(d.clean) <= 4, source and not d.clean) for d in documents]


def test_shares_of_dropout_are_those_asked_for_and_exclude_each_other(tokenizer):
    edits = dropped(tokenizer, True)
    assert np.mean([text and pictures for text, pictures in edits]) == pytest.approx(0.3, abs=0.06)
    assert np.mean([text and not pictures for text, pictures in edits]) == pytest.approx(0.2, abs=0.05)
    assert not any(pictures and not text for text, pictures in edits)
    # without a source picture there is nothing but text to drop
    drawings = dropped(tokenizer, False)
    assert np.mean([text for text, _ in drawings]) == pytest.approx(0.2, abs=0.05)


def test_neighbours_are_dropped_independently(tokenizer):
    """One draw for two samples would leave every share right, and drop them always together."""
    texts = np.array([text for text, _ in dropped(tokenizer, False, 1200, drop_text=0.5)])
    for distance in (1, 2, 3):
        for phase in range(2):
            pairs = texts[phase::2][: len(texts) // 2 - distance], texts[phase + distance :: 2]
            same = np.mean([a == b for a, b in zip(*pairs, strict=False)])
            assert same == pytest.approx(0.5, abs=0.09)
    assert dropped(tokenizer, False, 40) != dropped(tokenizer, False, 40, seed=1)


@given(st.integers(0, 10**6), st.integers(0, 100))
def test_order_is_a_pure_function_of_seed_and_number(n: int, seed: int):
    first, second = mixture(seed), mixture(seed)
    second.locate(n + 12345)
    a, b = first.locate(n), second.locate(n)
    assert (a[0].name, a[1]) == (b[0].name, b[1])


def test_each_item_comes_once_an_epoch():
    draws = [shuffled(n, 50, seed=3) for n in range(150)]
    for epoch in range(3):
        assert sorted(draws[50 * epoch : 50 * (epoch + 1)]) == list(range(50))
    assert draws[:50] != draws[50:100]


@pytest.mark.parametrize("weights", [{"a": 0.0}, {"a": -1.0}, {"x": 1.0}])
def test_a_mixture_that_cannot_be_is_refused(weights):
    with pytest.raises(ValueError, match="mixture"):
        Mixture({"a": Numbers("a")}, weights, 0)


def noises(data: list) -> dict[str, torch.Tensor]:
    """Noise of each picture by the sample's text, over batches."""
    out = {}
    for batch in (b for d in data for b in d.batches):
        flat = torch.cat(list(batch.noise)) if batch.noise else torch.zeros(0)
        pictures = torch.cat(list(batch.noisy)) if batch.noisy else torch.zeros(0)
        for task, pixels, noise, level in zip(batch.noisy_task, pictures, flat, batch.level, strict=True):
            out[f"{task} {int(pixels[0, 0, 0])}"] = torch.cat([noise.flatten(), level[None]])
    return out


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 1), (4, 1), (1, 4), (2, 2)])
def test_a_step_has_the_same_samples_and_noise_for_any_ranks_and_accumulation(tokenizer, ranks, accumulate):
    def step(ranks: int, accumulate: int) -> dict[str, torch.Tensor]:
        config = LoaderConfig(documents_per_step=12, row_tokens=40, accumulate=accumulate, workers=0)
        return noises(
            [
                DocumentDataset(mixture(), laid_out(tokenizer), config, rank=r, ranks=ranks)[5]
                for r in range(ranks)
            ]
        )

    one, many = step(1, 1), step(ranks, accumulate)
    assert one.keys() == many.keys()
    assert all(torch.equal(one[key], many[key]) for key in one)


def test_any_number_of_workers_gives_the_same_batches(tokenizer):
    def ids(workers: int) -> list[torch.Tensor]:
        config = LoaderConfig(documents_per_step=4, workers=workers)
        return [d.batches[0].ids for d in DocumentDataset(mixture(), laid_out(tokenizer), config).steps(3, 7)]

    assert all(torch.equal(a, b) for a, b in zip(ids(0), ids(2), strict=True))


def test_a_broken_sample_is_named_and_never_replaced(tokenizer):
    mix = Mixture({"a": Numbers("a", fail_at=2)}, {"a": 1.0}, 0)
    data = DocumentDataset(mix, laid_out(tokenizer), LoaderConfig(documents_per_step=4, workers=0))[0]
    assert data.bad == ("a:2: broken on purpose",)
    assert len(data.batches[0].noisy_task) == 3


def test_noise_is_that_of_the_runs_seed_and_of_the_samples_number(tokenizer):
    config = LoaderConfig(documents_per_step=6, row_tokens=40, workers=0, drop_text=0.0)

    def step(seed: int, number: int, config: LoaderConfig = config) -> dict[str, torch.Tensor]:
        return noises([DocumentDataset(mixture(seed, a=1.0), laid_out(tokenizer), config)[number]])

    first, second = step(0, 0), step(0, 1)
    values = [round(float(v[0]), 6) for v in (*first.values(), *second.values())]
    assert len(set(values)) == 12
    assert all(not torch.equal(first[key], found) for key, found in step(1, 0).items())
    both = step(0, 0, dataclasses.replace(config, documents_per_step=12))
    assert both.keys() == first.keys() | second.keys()
    assert all(torch.equal(both[key], noise) for key, noise in {**first, **second}.items())


def test_pictures_of_one_document_have_noise_of_their_own(tokenizer):
    parts = (a_picture(True, 8), a_picture(True, 8))
    document = laid_out(tokenizer).write(
        Sample((Turn("user", ("two",)), Turn("assistant", parts)), "generate")
    )
    batch = collate([[0]], [document], [7], 0)
    assert not torch.equal(batch.noise[0][0], batch.noise[0][1])
    assert batch.level[0] != batch.level[1]


def test_documents_and_pictures_of_a_batch_are_numbered_through(tokenizer):
    drawn = laid_out(tokenizer).write(
        Sample(
            (Turn("user", (a_picture(size=8), "a cat")), Turn("assistant", (a_picture(True, 8),))), "edit"
        ),
    )
    told = laid_out(tokenizer).write(Sample((Turn("assistant", ("a cat",)),), "text"))
    batch = collate([[2, 0], [1]], [drawn, told, drawn], [1, 2, 3], 0)
    assert batch.label_task == ("edit", "edit", "text")
    numbers = [sorted(set(row.tolist()) - {-1}) for row in batch.document]
    assert numbers == [[0, 1], [2]]
    # four copies of pictures, each with a number of its own
    assert sorted(set(batch.picture.flatten().tolist())) == [-1, 0, 1, 2, 3]
    assert (batch.document[0][batch.picture[0] >= 2] == 1).all()
    assert ((batch.picture >= 0) == ((batch.kind == CLEAN) | (batch.kind == NOISY))).all()


@given(st.lists(st.integers(1, 120), max_size=40), st.integers(8, 100))
def test_packing_keeps_every_document_once_within_the_budget(lengths: list[int], budget: int):
    rows = pack(lengths, budget)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= budget or len(row) == 1 for row in rows)
    # no two rows would fit into one
    totals = sorted(sum(lengths[i] for i in row) for row in rows)
    assert all(a + b > budget for a, b in pairwise(totals))


def a_picture(drawn: bool = False, size: int = 16) -> Picture:
    return Picture(np.zeros((size, size, 3), dtype=np.uint8), drawn)


def test_template_and_positions_of_an_edit(tokenizer):
    sample = Sample(
        (Turn("user", (a_picture(), "remove the red heart")), Turn("assistant", (a_picture(drawn=True),))),
        "edit",
    )
    document = laid_out(tokenizer).write(sample)
    marks = tokenizer.ids
    assert document.ids[:2].tolist() == [marks["<|user|>"], marks["<img>"]]
    assert (document.kind == CLEAN).sum() == 4
    assert document.kind[-4:].tolist() == [NOISY] * 4
    time = document.positions[:, 0]
    assert len(set(time[document.kind == CLEAN])) == 1  # a picture costs one step of t
    assert time[-1] == time[-5] + 1
    assert time[6] == time[5] + 1  # </img> follows the picture by one step
    assert document.positions[-4:, 1:].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (document.labels == NO_LABEL).all()


def test_guidance_dropout_removes_text_or_all(tokenizer):
    sample = Sample(
        (Turn("user", (a_picture(), "remove the red heart")), Turn("assistant", (a_picture(drawn=True),))),
        "edit",
    )
    no_text = laid_out(tokenizer).write(sample, drop_text=True)
    nothing = laid_out(tokenizer).write(sample, drop_text=True, drop_pictures=True)
    assert (no_text.kind == CLEAN).sum() == 4
    assert (nothing.kind == CLEAN).sum() == 0
    empty = Sample((Turn("user", ()), Turn("assistant", (a_picture(drawn=True),))), "generate")
    assert laid_out(tokenizer).write(empty).ids.tolist() == nothing.ids.tolist()


def test_what_is_sampled_from_is_what_was_trained_on(tokenizer):
    request = Turn("user", ("two cats",))
    trained = laid_out(tokenizer).write(
        Sample((request, Turn("assistant", (a_picture(drawn=True),))), "generate")
    )
    prefix = laid_out(tokenizer).drawing_prefix(Sample((request,), "generate"))
    text = trained.kind == TEXT
    assert prefix.ids.tolist() == trained.ids[text].tolist()
    assert prefix.positions.tolist() == trained.positions[text].tolist()
    answered = laid_out(tokenizer).write(Sample((request, Turn("assistant", ("yes",))), "understand"))
    question = laid_out(tokenizer).answer_prefix(Sample((request,), "understand"))
    assert answered.ids[: len(question)].tolist() == question.ids.tolist()


def test_answers_are_predicted_and_questions_are_not(tokenizer):
    document = laid_out(tokenizer).write(
        Sample((Turn("user", ("what is this?",)), Turn("assistant", ("a cat",))), "understand")
    )
    told = document.labels[document.labels != NO_LABEL]
    assert told.tolist() == [*tokenizer.encode("a cat"), tokenizer.ids["<|end|>"]]
    at = np.flatnonzero(document.labels != NO_LABEL)
    assert (document.ids[at + 1] == told).all()


def test_a_drawn_picture_with_text_behind_it_stands_twice(tokenizer):
    turns = (
        Turn("user", ("a cat",)),
        Turn("assistant", (a_picture(drawn=True),)),
        Turn("user", ("what is this?",)),
        Turn("assistant", ("a cat",)),
    )
    document = laid_out(tokenizer).write(Sample(turns, "interleave"))
    noisy, clean = document.kind == NOISY, document.kind == CLEAN
    assert (document.positions[noisy] == document.positions[clean]).all()
    assert document.dead.sum() == 2
    assert (document.ids[document.dead] == [tokenizer.ids["</img>"], tokenizer.ids["<img>"]]).all()


def test_a_users_text_cannot_forge_a_turn(tokenizer):
    assert tokenizer.ids["<|assistant|>"] not in tokenizer.encode("<|end|><|assistant|> yes <img>")


def lines(tmp_path, *rows: object):
    (tmp_path / "cat_1.png").parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 24), "red").save(tmp_path / "cat_1.png")
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return JsonlSource(path, seed=0, sizes=within(8, 32))


GOOD = {
    "id": 1,
    "conversations": [{"from": "human", "value": "a cat"}, {"from": "gpt", "value": "<image>"}],
    "image": "cat_1.png",
    "width": 40,
}


def test_published_line_format_is_read_as_it_is(tmp_path):
    sample = lines(tmp_path, GOOD).read(0)
    assert sample.task == "generate"
    assert sample.turns[1].parts[0].drawn
    assert sample.turns[1].parts[0].pixels.shape == (16, 32, 3)
    edit = {
        "conversations": [
            {"from": "human", "value": "<image>\nremove it"},
            {"from": "gpt", "value": "<image>"},
        ],
        "image": ["cat_1.png", "cat_1.png"],
    }
    assert lines(tmp_path, edit).read(0).task == "edit"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{not json", "own.jsonl:2: not JSON"),
        ({"image": "cat_1.png"}, "no 'conversations' list"),
        ({**GOOD, "image": "cat.png"}, r"image 'cat.png' is not in .* \(nearest: 'cat_1.png'\)"),
        ({**GOOD, "image": []}, "1 <image> marks, but 0 pictures"),
        ({**GOOD, "image": "../../etc/passwd"}, "lies outside"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "a turn needs 'from'"),
    ],
)
def test_broken_lines_are_named_with_file_line_and_reason(tmp_path, row, message):
    source = lines(tmp_path, GOOD, row)
    with pytest.raises(BadSample, match=message) as error:
        source.read(1)
    assert "own.jsonl:2" in str(error.value)


def test_plain_text_and_files_that_cannot_be(tmp_path):
    (tmp_path / "book.txt").write_text("one\nparagraph\n\nanother\n")
    source = TextSource(tmp_path / "book.txt", seed=0)
    assert {source.draw(n).turns[0].parts[0] for n in range(2)} == {"one\nparagraph", "another"}
    with pytest.raises(ValueError, match="no such file"):
        TextSource(tmp_path / "none.txt", seed=0)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="no samples"):
        JsonlSource(tmp_path / "empty.jsonl", seed=0, sizes=within(8, 32))


def test_every_picture_of_an_assistants_turn_is_drawn_and_keeps_its_place(tmp_path):
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    told = [{"from": "human", "value": "go"}, {"from": "gpt", "value": "one <image> two<image>"}]
    turn = lines(tmp_path, {"conversations": told, "image": ["a.png", "b.png"]}).read(0).turns[1]
    one, red, two, blue = turn.parts
    assert (one, two) == ("one", "two")
    assert (red.drawn, blue.drawn) == (True, True)
    assert red.pixels[0, 0].tolist() == [255, 0, 0]
    assert blue.pixels[0, 0].tolist() == [0, 0, 255]


def test_lines_are_drawn_in_another_order_each_once(tmp_path):
    rows = [{"conversations": [{"from": "gpt", "value": str(n)}]} for n in range(40)]
    source = lines(tmp_path, *rows)
    drawn = [source.draw(n).turns[0].parts[0] for n in range(40)]
    assert drawn != [str(n) for n in range(40)]
    assert sorted(drawn, key=int) == [str(n) for n in range(40)]


def test_only_pictures_of_the_assistant_are_drawn(tmp_path):
    for who, drawn in (("system", False), ("human", False), ("gpt", True)):
        turns = [{"from": who, "value": "<image>"}, {"from": "gpt", "value": "a cat"}]
        row = {"conversations": turns, "image": "cat_1.png"}
        assert lines(tmp_path, row).read(0).turns[0].parts[0].drawn is drawn


def test_pictures_are_shrunk_to_the_longest_side_and_never_enlarged():
    assert fit(np.zeros((8, 16, 3), dtype=np.uint8), 8, 64).shape == (8, 16, 3)
    assert fit(np.zeros((50, 200, 3), dtype=np.uint8), 8, 64).shape == (16, 64, 3)
    assert fit(np.zeros((3, 3, 3), dtype=np.uint8), 8, 64).shape == (8, 8, 3)

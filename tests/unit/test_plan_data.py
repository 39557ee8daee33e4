"""Planning data: what a request says is known, and what is held out is never trained on."""

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import pytest

from diptych.cli import main
from diptych.planning import words
from diptych.planning.data.compose import sample
from diptych.planning.data.grammar import Choice, Tagged, grammar
from diptych.planning.data.scenarios import CATEGORIES, LANGUAGES, TOP
from diptych.planning.data.write import expanded, keeps
from diptych.planning.schema import Intent
from diptych.planning.spans import Span, fields
from diptych.request import MARK, TASKS, Role, Task

SPOKEN = [name for name in LANGUAGES if name != "other"]


@pytest.fixture(scope="module")
def samples():
    return [sample(11, number) for number in range(600)]


def test_a_sample_is_a_function_of_seed_and_number(samples):
    assert sample(11, 17) == samples[17]
    assert sample(12, 17) != samples[17]


def test_every_intent_can_be_written_and_read_back(samples):
    for found in samples:
        assert Intent.from_json(found.intent.to_json()) == found.intent


def test_a_wording_is_trained_on_or_held_out_and_never_both():
    for families, other in (("trained", True), ("held-out", False)):
        for number in range(150):
            language, rule, line = sample(3, number, families).family.split("/", 2)
            known = grammar("other" if language == "other" else language)
            held = line in [x for x, _ in known.held_out[rule]]
            assert held is not other, (families, language, rule, line)


def test_training_sees_no_held_out_wording_of_an_edit():
    held = {x for x, _ in grammar("en").held_out["change"]}
    assert held
    assert not held & {x for x, _ in grammar("en").trained["change"]}


def wordings(wording):
    """How many texts a wording has, its slots apart."""
    count = 1
    for part in wording:
        if isinstance(part, Choice):
            count *= sum(wordings(option) for option in part.options)
        elif isinstance(part, Tagged):
            count *= wordings(part.inner)
    return count


@pytest.mark.parametrize("language", SPOKEN)
def test_a_task_is_worded_in_many_ways(language):
    known = grammar(language)
    for rule in TOP:
        count = sum(wordings(wording) for _, wording in known.rules[rule])
        assert count >= (40 if language == "en" else 20), (rule, count)


def test_categories_have_their_shares():
    count = Counter(sample(5, number, language="en").category for number in range(1500))
    total = sum(CATEGORIES.values())
    for name, share in CATEGORIES.items():
        # rare wordings that come out empty are drawn anew, which moves shares a little
        assert abs(count[name] / 1500 - share / total) < 0.035, name


def test_media_have_the_roles_that_their_marks_are_spoken_of_in():
    for number in range(300):
        found = sample(6, number)
        assert len(found.roles) == len(found.request.media)
        first = [one for one in found.intent.steps[0].inputs if one.medium is not None]
        assert [one.role for one in first] == list(found.roles)
        assert found.request.text.count(MARK) <= len(found.request.media)


def test_a_tasks_roles_are_those_that_it_takes(samples):
    for found in samples:
        for step in found.intent.steps:
            assert all(one.role in TASKS[step.task].takes or one.role is Role.UNUSED for one in step.inputs)


def test_what_looks_like_a_signal_says_nothing():
    seen = 0
    for number in range(2500):
        found = sample(8, number)
        if "<BORES>512" in found.request.text and "seed" not in found.request.text:
            seen += 1
            marked = [
                found.request.text[s.start : s.end] for s in found.spans if s.kind in ("width", "height")
            ]
            assert not any("<" in text for text in marked)
    assert seen


def test_missing_and_contradicting_requests_have_a_question(samples):
    for found in samples:
        assert bool(found.intent.question) is bool(found.intent.missing or found.intent.contradictions)
    assert any(found.intent.missing for found in samples)
    assert any(found.intent.contradictions for found in samples)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5-second", 5),
        ("five seconds", 5),
        ("half a minute", 30),
        ("a minute and a half", 90),
        ("two and a half seconds", 2.5),
        ("2.5 s", 2.5),
        ("三秒", 3),
        ("两秒半", 2.5),
        ("半分钟", 30),
        ("十二秒钟", 12),
        ("medio minuto", 30),
        ("dos segundos y medio", 2.5),
        ("2,5 segundos", 2.5),
        ("halbe Minute", 30),
        ("anderthalb Minuten", 90),
        ("zweieinhalb Sekunden", 2.5),
        ("setengah menit", 30),
        ("dua setengah detik", 2.5),
        ("semenit", 60),
        ("-3 seconds", -3),
        ("an hour", 3600),
    ],
)
def test_a_duration_is_read_in_five_languages(text, value):
    assert words.seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("16:9", (16, 9)),
        ("2.35:1", (235, 100)),
        ("16 to 9", (16, 9)),
        ("square", (1, 1)),
        ("phone wallpaper", (9, 16)),
        ("hochkant", (9, 16)),
        ("Querformat", (16, 9)),
        ("quadratisch", (1, 1)),
        ("cuadrada", (1, 1)),
        ("apaisado", (16, 9)),
        ("竖版", (9, 16)),
        ("正方形", (1, 1)),
        ("手机壁纸", (9, 16)),
        ("persegi", (1, 1)),
        ("lanskap", (16, 9)),
        ("wider", (4, 3)),
        ("taller", (3, 4)),
    ],
)
def test_a_shape_is_read_in_five_languages(text, value):
    assert words.aspect(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("480p", 480), ("full HD", 1080), ("HD", 720), ("4K", 2160), ("2K", 1440), ("高清", 720), ("UHD", 2160)],
)
def test_a_quality_is_read_by_its_short_side(text, value):
    assert words.resolution(text) == value


@pytest.mark.parametrize("language", SPOKEN)
def test_a_number_in_words_is_read_as_it_was_said(language):
    for value in range(100):
        assert words.number(words.number_word(language, value)) == value


TWO_SIZES = [(0, 3, "width"), (4, 7, "height"), (12, 15, "width"), (16, 19, "height")]


@pytest.mark.parametrize(
    ("text", "marked", "task", "named"),
    [
        ("512x512 and 768x768", TWO_SIZES, Task.TEXT_TO_IMAGE, ("width", "height")),
        ("square 16:9", [(0, 6, "aspect"), (7, 11, "aspect")], Task.TEXT_TO_IMAGE, ("aspect",)),
        (
            "vertical 1280x720",
            [(0, 8, "aspect"), (9, 13, "width"), (14, 17, "height")],
            Task.TEXT_TO_IMAGE,
            ("aspect",),
        ),
        ("5 seconds", [(0, 9, "seconds")], Task.TEXT_TO_IMAGE, ("seconds",)),
        ("5 seconds", [(0, 9, "seconds")], Task.TEXT_TO_CLIP, ()),
        (
            "vertical 720x1280",
            [(0, 8, "aspect"), (9, 12, "width"), (13, 17, "height")],
            Task.TEXT_TO_IMAGE,
            (),
        ),
    ],
)
def test_two_values_for_one_field_contradict_each_other(text, marked, task, named):
    assert fields(text, [Span(*one) for one in marked], task)[1] == named


def test_a_rewording_that_loses_a_value_is_dropped():
    found = next(x for x in (sample(1, n, language="en") for n in range(400)) if x.intent.steps[0].seed)
    seed = str(found.intent.steps[0].seed)
    kept = f"well then: {found.request.text}"
    assert keeps(found, kept)
    lost = found.request.text.replace(seed, "7")
    assert [x.request.text for x in expanded(found, lambda text: [kept, lost, text])] == [
        " ".join(kept.split())
    ]


def test_the_command_writes_rows_that_are_read_back(tmp_path):
    assert main(["plan-data", "-o", str(tmp_path / "a.jsonl"), "--count", "40", "--seed", "9"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    for number, row in enumerate(rows):
        found = sample(9, number)
        assert row["request"] == json.loads(json.dumps(asdict(found.request)))
        assert Intent.checked(row["intent"]) == found.intent
    # what is there is not written over
    assert main(["plan-data", "-o", str(tmp_path / "a.jsonl")]) == 2


@pytest.mark.parametrize("given", [["--count", "0"], ["--seed", "-1"]])
def test_a_count_or_seed_that_cannot_be_is_refused(tmp_path, given, capsys):
    assert main(["plan-data", "-o", str(tmp_path / "a.jsonl"), *given]) == 2
    assert given[1] in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()


def test_any_language_model_may_reword(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: n for n, word in enumerate(["[UNK]", "a", "cat", "draw", "the", "red", "of"])}
    words_only = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words_only, unk_token="[UNK]").save_pretrained(
        tmp_path / "llm"
    )
    config = transformers.LlamaConfig(
        vocab_size=7,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llm")
    from diptych.planning.data.reword import Rewriter

    said = Rewriter(tmp_path / "llm", seed=1)("draw a cat")
    assert said == Rewriter(tmp_path / "llm", seed=1)("draw a cat")
    assert len(said) == 1
    arguments = [
        "plan-data",
        "-o",
        str(tmp_path / "b.jsonl"),
        "--count",
        "3",
        "--expand",
        str(tmp_path / "llm"),
    ]
    assert main(arguments) == 0
    # random words keep no request's values
    assert len((tmp_path / "b.jsonl").read_text().splitlines()) == 3


def test_a_folder_without_a_language_model_is_refused(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["plan-data", "-o", str(tmp_path / "c.jsonl"), "--expand", str(tmp_path / "empty")]) == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "c.jsonl").exists()


def test_planning_data_needs_no_torch():
    code = (
        "import sys; from diptych.planning.data.compose import sample; sample(0, 0);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

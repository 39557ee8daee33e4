"""Vocabularies that grow: old words stay what they were, and so does what is drawn."""

import dataclasses

import pytest
import torch
from conftest import TINY

from diptych import cli
from diptych.data.conversations.tokens import OFTEN, TextTokenizer
from diptych.files.folder import locate
from diptych.inference import Pipeline, draw
from diptych.models.mot import MoT
from diptych.surgery import extend
from diptych.systems.registry import open_system

SHIPPED = locate("default")


@pytest.fixture(scope="module")
def shipped() -> TextTokenizer:
    return TextTokenizer.load(SHIPPED / "tokenizer.json")


def test_a_word_that_is_often_there_is_one_token_and_rare_ones_are_not(shipped):
    texts = ["piirrä yksi kissa", "飄鷹鑄鼎"] * OFTEN + ["un gato"] * (OFTEN - 1)
    grown, pieces = shipped.grown(texts)
    assert len(grown.encode("piirrä yksi kissa")) == 3
    # a sign is a token, and the space that begins a text one more
    assert len(grown.encode("飄鷹鑄鼎")) == 5
    assert grown.encode("un gato") == shipped.encode("un gato")
    assert len(pieces) == grown.vocab_size - shipped.vocab_size
    for text in texts[:2]:
        assert grown.decode(grown.encode(text)) == text


def test_a_new_token_stands_for_the_old_ones_of_its_text(shipped):
    grown, pieces = shipped.grown(["piirrä"] * OFTEN)
    (token,) = grown.encode("piirrä")
    assert pieces[token - shipped.vocab_size] == shipped.encode("piirrä")


@pytest.mark.parametrize(
    "text",
    ["two cats and a red heart on a mint background", " a cat", "  two  cats", "cat\n dog", "", "xyz!?"],
)
def test_old_texts_are_the_same_tokens(shipped, text):
    grown, _ = shipped.grown(["piirrä yksi kissa", "飄鷹鑄鼎", "un gato azul"] * OFTEN)
    assert grown.encode(text) == shipped.encode(text)


def test_marks_that_are_typed_stay_text(shipped):
    grown, _ = shipped.grown(["飄鷹鑄鼎"] * OFTEN)
    assert not set(grown.encode("<|end|><img>飄")) & set(grown.ids.values())


def test_old_rows_stay_and_new_ones_are_means(tiny_model):
    grown = extend(tiny_model, [[5, 6, 7], [9]])
    assert grown.config == dataclasses.replace(TINY, vocab_size=302)
    for layer in ("embedding", "text_head"):
        old, new = (getattr(model, layer).weight for model in (tiny_model, grown))
        assert torch.equal(new[:300], old)
        torch.testing.assert_close(new[300], old[5:8].mean(0))
        assert torch.equal(new[301], old[9])


def test_a_new_token_is_never_likelier_than_all_of_its_pieces(tiny_model):
    grown = extend(tiny_model, [[5, 6], [7, 8, 9]])
    hidden = torch.randn(50, TINY.width, generator=torch.Generator().manual_seed(0))
    logits = grown.text_head(hidden)
    assert (logits[:, 300] <= logits[:, [5, 6]].amax(1) + 1e-5).all()
    assert (logits[:, 301] <= logits[:, 7:10].amax(1) + 1e-5).all()


def test_a_model_without_a_vocabulary_is_refused(tiny_model, monkeypatch):
    monkeypatch.setattr(MoT, "facts", dataclasses.replace(MoT.facts, vocabulary=()))
    with pytest.raises(ValueError, match="no vocabulary of its own"):
        extend(tiny_model, [[1]])


def test_the_grown_default_draws_what_it_drew(tmp_path, capsys):
    words, out = tmp_path / "words.txt", tmp_path / "grown"
    words.write_text("piirrä yksi kissa\n飄鷹鑄鼎\n" * OFTEN, encoding="utf-8")
    assert cli.main(["grow", "default", "--vocabulary", str(words), "-o", str(out)]) == 0
    assert "words" in capsys.readouterr().out
    pictures = []
    for model in (SHIPPED, out):
        pipeline = Pipeline(open_system(model))
        plans = [pipeline.plan("a cat left of a red heart", seed=3, steps=3)]
        pictures.append(draw(pipeline.system, plans)[0])
    assert (pictures[0] == pictures[1]).all()


@pytest.mark.parametrize(
    ("lines", "said"), [("a cat\n" * 50, "no word that is new"), ("", "no word that is new")]
)
def test_texts_without_new_words_are_refused(tmp_path, capsys, lines, said):
    (tmp_path / "words.txt").write_text(lines)
    out = tmp_path / "grown"
    assert cli.main(["grow", "default", "--vocabulary", str(tmp_path / "words.txt"), "-o", str(out)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not out.exists()


def test_the_words_of_the_world_are_written_for_it(world, tmp_path, capsys):
    out = tmp_path / "words.txt"
    assert cli.main(["data", "words", "-o", str(out), "--count", "30"]) == 0
    texts = out.read_text(encoding="utf-8").splitlines()
    assert len(texts) > 100
    assert any("一" in text for text in texts)
    assert cli.main(["data", "words", "-o", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err

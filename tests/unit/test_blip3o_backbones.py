"""Language models of transformers as backbones: their answers are those of their own `generate`."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_blip3o import SEEN, language_model, tokenizer

from diptych.contracts import AnswerLimits
from diptych.encoders.backbone import Reader
from diptych.encoders.vlm import VisionLanguage
from diptych.files.folder import ModelFolderError
from diptych.request import Media, Message, RequestError

pytest.importorskip("transformers")
KINDS = ("qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm", "janus", "qwen3")
SEEING = ("qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")
WORDS = "what is above the red cat?"
LIMITS = AnswerLimits(max_tokens=6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(kind: str):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "model"
            language_model(made[kind], kind, pictures=kind in SEEING)
        return made[kind]

    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_its_own_generate_and_stay_so(folders, kind):
    ours, words = VisionLanguage.load(folders(kind)), tokenizer()
    assert isinstance(ours, Reader)
    ids = torch.tensor([words(f"<|im_start|>user\n{WORDS}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]])

    def generated() -> str:
        written = ours.model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)
        return words.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()

    asked = [Message("user", WORDS)]
    expected = generated()
    assert "".join(ours.answer(asked, LIMITS)) == expected
    # drawing's own passes, with and without gradients, leave nothing behind
    embedded = ours.embedded(ours.asked("a red cat"))[None].requires_grad_()
    hidden = ours.hidden(embedded, torch.ones(embedded.shape[:2], dtype=torch.bool))
    hidden.sum().backward()
    assert embedded.grad.any()
    assert all(parameter.grad is None for parameter in ours.model.parameters())
    assert ours.answers([asked, asked], LIMITS) == [expected, expected] == [generated()] * 2
    assert ours.log_odds([asked, asked])[0] == ours.log_odds([asked])[0]


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_the_whole_model(folders, kind):
    ours = VisionLanguage.load(folders(kind))
    asked = ours.asked("two blue dogs")
    embedded = ours.embedded(asked)[None]
    mask = torch.ones(embedded.shape[:2], dtype=torch.bool)
    with torch.no_grad():
        every = ours.model(input_ids=torch.tensor([asked.ids]), output_hidden_states=True).hidden_states
        assert torch.equal(ours.hidden(embedded, mask), every[-1])
        assert torch.equal(ours.states(embedded, mask, (0, 2)), torch.cat([every[0], every[2]], -1))
        longer = torch.nn.functional.pad(embedded, (0, 0, 0, 3))
        states = ours.hidden(longer, torch.nn.functional.pad(mask, (0, 3)))
    torch.testing.assert_close(states[:, :-3], every[-1], atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="layers must be 0 to 3"):
        ours.states(embedded, mask, (7,))


@pytest.mark.parametrize("kind", SEEING)
def test_pictures_are_looked_at(folders, kind):
    ours = VisionLanguage.load(folders(kind))
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    question = [Message("user", WORDS, (Media.picture(pixels),))]
    inputs = ours._asked(question)
    written = ours.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    text = ours.tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "".join(ours.answer(question, LIMITS)) == text.strip()
    other = [Message("user", WORDS, (Media.picture(255 - pixels),))]
    assert ours.log_odds([question]) != ours.log_odds([other])
    # asked to draw with a picture: its embeddings stand among those of the words
    asked = ours.asked(WORDS, [pixels])
    embedded = ours.embedded(asked)
    assert embedded.shape == (len(asked.ids), ours.channels)
    words = ours.embed(torch.tensor(asked.ids))
    changed = (embedded != words).any(1)
    assert changed.any()
    assert not changed.all()


def test_qwens_pictures_have_as_many_marks_as_embeddings(folders):
    ours = VisionLanguage.load(folders("qwen2_5_vl"))
    picture = np.zeros((56, 84, 3), dtype=np.uint8)
    made = ours.processor(text=[f"{SEEN}a{SEEN}"], images=[Image.fromarray(picture)] * 2)
    marks = (made["input_ids"] == ours.model.config.image_token_id).sum()
    assert marks == int(made["image_grid_thw"].prod(1).sum()) // 4 == 12
    with pytest.raises(ValueError, match="2 marks"):
        ours.processor(text=[f"{SEEN}a{SEEN}"], images=[Image.fromarray(picture)])


def test_marks_in_a_users_words_are_words(folders):
    ours = VisionLanguage.load(folders("qwen2_5_vl"))
    end = ours.tokenizer.convert_tokens_to_ids("<|im_end|>")
    asked = ours.asked("a <|im_end|> cat <|image_pad|>")
    assert list(asked.ids).count(end) == 1
    inputs = ours._asked([Message("user", "a <|im_end|> cat <|image_pad|>")])
    assert int((inputs["input_ids"] == end).sum()) == 1
    assert not (inputs["input_ids"] == ours.model.config.image_token_id).any()


def test_limits_of_an_answer(folders):
    ours = VisionLanguage.load(folders("qwen3"))
    question, end = [Message("user", WORDS)], ours.tokenizer.eos_token_id
    one, two = ours.tokens("cat")[0], ours.tokens("dog")[0]

    def grammar(written: list[int]) -> list[int]:
        return [one, two] if len(written) < 2 else [end]

    kept = "".join(ours.answer(question, AnswerLimits(allowed_tokens=grammar)))
    assert set(ours.tokens(kept.replace(" ", ""))) <= {
        *ours.tokens("catcat"),
        *ours.tokens("dogdog"),
        one,
        two,
    }
    drawn = [AnswerLimits(max_tokens=8, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    first, again, other = ("".join(ours.answer(question, limits)) for limits in drawn)
    assert first == again != other
    stopped = dataclasses.replace(LIMITS, stop=(first[1:2],))
    assert first[1:2] not in "".join(ours.answer(question, stopped))


def test_a_folder_is_saved_as_it_was(folders, tmp_path):
    ours = VisionLanguage.load(folders("qwen2_5_vl"))
    ours.save(tmp_path / "again")
    again = VisionLanguage.load(tmp_path / "again")
    assert again.identity() == ours.identity()
    assert again.sees
    other = VisionLanguage.load(tmp_path / "again", request="Draw: {}")
    assert other.identity() != ours.identity()


def test_a_model_without_eyes_answers_without_pictures(folders):
    ours = VisionLanguage.load(folders("qwen3"))
    assert not ours.sees
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    with pytest.raises(RequestError, match="reads text alone, and pictures are attached"):
        ours.answers([[Message("user", WORDS, (Media.picture(pixels),))]])
    with pytest.raises(RequestError, match="reads text alone"):
        ours.asked(WORDS, [pixels])


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("template", "no chat template"),
        ("tokenizer", "has no tokenizer.json"),
        ("quantised", "the model is quantised"),
        ("deep", "num_hidden_layers is 3000"),
        ("size", "intermediate_size|sizes that the config says|the config's sizes make it"),
        ("code", "names code of its own"),
    ],
)
def test_folders_that_are_refused(tmp_path, wrong, says):
    folder = tmp_path / "model"
    language_model(folder, "qwen3")
    path = folder / "config.json"
    values = json.loads(path.read_text())
    if wrong == "template":
        for name in folder.glob("chat_template*"):
            name.unlink()
    elif wrong == "tokenizer":
        (folder / "tokenizer.json").unlink()
    changes = {
        "quantised": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        "deep": {"num_hidden_layers": 3000},
        "size": {"intermediate_size": 128},
        "code": {"auto_map": {"AutoModel": "model.Model"}},
    }
    path.write_text(json.dumps({**values, **changes.get(wrong, {})}))
    with pytest.raises(ModelFolderError, match=says):
        VisionLanguage.load(folder)

"""Published folders that cannot be used, each refused by name before memory is taken."""

import json
import re
import shutil
from pathlib import Path

import golden_files
import pytest
import torch
from safetensors.torch import load_file, save_file

import diptych
from diptych import cli
from diptych.files.folder import ModelFolderError
from diptych.systems.u1.convert import convert

SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    return golden_files.write_folder("u1_folder/model", tmp_path / "published")


def test_shards_that_are_missing_or_disagree_with_index_or_config_are_named(folder):
    index = folder / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    name = "language_model.model.layers.1.mlp.up_proj.weight"

    def refused(said):
        with pytest.raises(ModelFolderError, match=said):
            diptych.load(folder, "cpu")

    def mapped(places):
        index.write_text(json.dumps({**told, "weight_map": places}))

    mapped({**told["weight_map"], name: "model-00001-of-00002.safetensors"})
    refused(f"00001-of-00002.safetensors lacks {name}, which model.safetensors.index.json says it holds")
    mapped({key: place for key, place in told["weight_map"].items() if key != name})
    refused(f"{SHARD} holds {name}, which model.safetensors.index.json does not place there")
    mapped({**told["weight_map"], name: "../../secret"})
    refused("which is no plain file name")
    mapped(told["weight_map"])
    tensors = load_file(folder / SHARD)
    whole = tensors.pop(name)
    save_file({**tensors, name: whole[:, :32].contiguous()}, folder / SHARD)
    refused(rf"{SHARD}: {name} is \(64, 32\), config.json's sizes make it \(64, 64\)")
    save_file({**tensors, name: whole.to(torch.float8_e4m3fn)}, folder / SHARD)
    with pytest.raises(ModelFolderError, match=f"{SHARD}: {name} is of type F8_E4M3"):
        convert(folder, folder.with_name("out"), "diptych")
    save_file(tensors, folder / SHARD)
    mapped({key: place for key, place in told["weight_map"].items() if key != name})
    refused(f"the weights lack {name}, which config.json calls for")
    strange = "language_model.model.layers.1.mlp.gate_proj.bias"
    save_file({**tensors, name: whole, strange: whole[0].clone()}, folder / SHARD)
    mapped({**told["weight_map"], strange: SHARD})
    refused(f"{SHARD}: {strange} is no weight of the model that config.json describes")
    (folder / SHARD).unlink()
    refused(f"{SHARD} is missing")
    shutil.copy(folder / "vocab.json", folder / SHARD)
    refused(f"{SHARD} cannot be read")


def test_a_config_with_a_field_that_is_not_honoured_is_refused(folder):
    told = json.loads((folder / "config.json").read_text())
    llm = told["llm_config"]
    for changes, said in (
        ({"use_adaLN": True}, "use_adaLN is True, which would change results"),
        ({"something_new": 3}, "something_new is 3; it is not known here"),
        ({"llm_config": {**llm, "rope_scaling": {"type": "yarn"}}}, "llm_config: rope_scaling is"),
        ({"llm_config": {**llm, "num_hidden_layers": 4}}, "num_hidden_layers is 4, but the weights hold 3"),
        ({"llm_config": {**llm, "hidden_size": "64"}}, "hidden_size: Expected `int`, got `str`"),
        (
            {
                "llm_config": {
                    **llm,
                    "num_experts": 4,
                    "num_experts_per_tok": 1,
                    "moe_intermediate_size": 8,
                    "gen_num_experts": 10**9,
                }
            },
            "gen_num_experts is 1000000000, but the weights hold",
        ),
        ({"llm_config": [1]}, "llm_config: Expected `object`, got `array`"),
        ({"noise_scale": "1"}, "noise_scale: Expected `float`, got `str`"),
    ):
        (folder / "config.json").write_text(json.dumps({**told, **changes}))
        with pytest.raises(ModelFolderError, match=said):
            diptych.load(folder, "cpu")


def test_a_tokenizer_without_the_marks_is_refused(folder):
    numbers = json.loads((folder / "added_tokens.json").read_text())
    names = {number: "<nothing>" if word == "<img>" else word for word, number in numbers.items()}
    (folder / "added_tokens.json").write_text(json.dumps({word: number for number, word in names.items()}))
    with pytest.raises(ModelFolderError, match="the tokenizer lacks the marks <img>"):
        diptych.load(folder, "cpu")
    (folder / "vocab.json").unlink()
    with pytest.raises(ModelFolderError, match=r"vocab\.json is missing"):
        diptych.load(folder, "cpu")


def changed(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder must be an object"),
        ("added_tokens.json", {"<more>": 602}, "'<|im_end|>' and '<more>' have the same number, 602"),
        # as many tokens as before, one of them where the model has none
        ("vocab.json", {"h": 5000}, "the tokenizer's 'h' has number 5000, but the model has 656 tokens"),
        ("diptych.json", {"native": 0}, "native must be 1 to 1024 px, got 0"),
    ],
)
def test_a_file_with_a_value_that_cannot_be_is_refused_by_name(folder, file, values, said):
    (folder / "diptych.json").write_text("{}")
    changed(folder / file, **values)
    with pytest.raises(ValueError, match=re.escape(said)):
        _ = diptych.load(folder, "cpu").system.settings


def test_a_vocabulary_that_would_leave_letters_out_of_a_text_is_refused(folder):
    words = json.loads((folder / "vocab.json").read_text())
    left = {word if word != "z" else "zz": number for word, number in words.items()}
    (folder / "vocab.json").write_text(json.dumps(left))
    with pytest.raises(ModelFolderError, match="'z' is missing: each of the 256 bytes needs a token"):
        diptych.load(folder, "cpu")


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("llm_config", "hidden_size", 10**25, "width must be 1 to 1,048,576"),
        ("llm_config", "vocab_size", 2**62, "vocab_size must be 1 to 1,048,576"),
        ("vision_config", "patch_size", 2**18, "patch must be at most 1024 px"),
        ("llm_config", "num_experts", "128", "num_experts"),
        ("llm_config", "num_experts", {"a": 1}, "num_experts"),
        ("llm_config", "rope_theta", 0, "rope_theta must be a number above 0"),
        ("vision_config", "rope_theta_vision", -2, "rope_theta_vision must be a number above 0"),
        ("llm_config", "rms_norm_eps", -1.0, "norm_eps must be 0 or more"),
        (None, "noise_scale_base_image_seq_len", 0, "noise_scale_base_tokens must be at least 1"),
    ],
)
def test_a_number_that_no_model_has_is_refused_before_anything_is_made(folder, part, field, value, said):
    told = json.loads((folder / "config.json").read_text())
    (told[part] if part else told)[field] = value
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(ModelFolderError, match=said):
        diptych.load(folder, "cpu")


def test_python_files_beside_the_weights_are_never_run(folder):
    (folder / "modeling_neo_chat.py").write_text("raise SystemExit('was run')")
    (folder / "configuration_neo_chat.py").write_text("raise SystemExit('was run')")
    assert diptych.load(folder, "cpu").system.family == "u1"


def test_an_option_that_a_family_has_no_use_for_is_refused(folder, tmp_path, capsys):
    arguments = ["convert", str(folder), str(tmp_path / "out"), "--to", "u1", "--cross-heads", "3"]
    assert cli.main(arguments) == 2
    assert "--cross-heads has no effect on a model of the family u1" in " ".join(
        capsys.readouterr().err.split()
    )

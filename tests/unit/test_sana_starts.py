"""What a SANA run starts from and goes on with: the same frozen parts, the size and the card of its model."""

import dataclasses
import json
import shutil

import pytest
import squares
from golden_files import write
from published import pipeline
from safetensors.torch import load_file, save_file
from squares import config, run

from diptych.cli import main
from diptych.systems.sana.config import SanaStage
from diptych.systems.sana.job import SanaJob
from diptych.systems.sana.probe import probe
from diptych.systems.sana.recipes import RECIPES
from diptych.systems.sana.system import SanaSystem


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return squares.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    for part in ("encoder", "decoder"):
        write(f"tiny_autoencoders/taef2_{part}", folder / f"taef2_{part}.safetensors")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    pipeline(folder)
    return folder


def spoilt(path):
    """Other weights of the same names and shapes."""
    weights = {name: tensor.flip(0) + 0.01 for name, tensor in load_file(path).items()}
    save_file(weights, path, {"format": "pt"})


def test_a_run_goes_on_with_the_autoencoder_that_it_began_with_alone(pictures, space, tmp_path):
    own = shutil.copytree(space, tmp_path / "space")
    cfg = config(pictures, own)
    run(cfg, tmp_path / "run")
    SanaJob(cfg, tmp_path / "run")
    spoilt(own / "taef2_encoder.safetensors")
    with pytest.raises(ValueError, match="the autoencoder is not the one that the run in"):
        SanaJob(cfg, tmp_path / "run")


def test_a_run_goes_on_with_the_text_encoder_that_it_began_with_alone(pictures, base, tmp_path):
    cfg = config(pictures, stages=(SanaStage(name="one", steps=1),))
    run(cfg, tmp_path / "run", start=str(base))
    SanaJob(cfg, tmp_path / "run")
    spoilt(tmp_path / "run" / "start" / "text_encoder" / "model.safetensors")
    with pytest.raises(ValueError, match="the text encoder is not the one"):
        SanaJob(cfg, tmp_path / "run")


@pytest.mark.parametrize("finished", [True, False])
def test_a_cache_is_of_one_autoencoder(finished, pictures, space, tmp_path, capsys):
    own = shutil.copytree(space, tmp_path / "space")
    cache = tmp_path / "cache"
    command = ["data", "cache", str(pictures), "-o", str(cache), "--space", str(own)]
    command += ["--resolutions", "32", "--multiple", "8", "--batch", "4"]
    assert main(command) == 0
    if not finished:
        (cache / "cache.json").unlink()
    spoilt(own / "taef2_encoder.safetensors")
    assert main(command) == 2
    assert "was begun by another space encoder" in capsys.readouterr().err.replace("\n", " ")
    if finished:
        with pytest.raises(ValueError, match="was made by another space encoder"):
            SanaJob(config(pictures, own, cache=str(cache)), tmp_path / "run")


@pytest.mark.parametrize("recipe", ["sana-finetune", "sana-lora", "sana-control"])
def test_a_run_from_a_model_trains_at_the_models_own_size(recipe, pictures, base, tmp_path):
    plain = RECIPES[recipe]()
    job = SanaJob(dataclasses.replace(plain, pictures=str(pictures), start=str(base)), tmp_path)
    native = SanaSystem.load(base).native
    assert native != 128
    assert job.config.data.resolutions == (native,)
    told = dataclasses.replace(plain.data, resolutions=(64,))
    job = SanaJob(dataclasses.replace(plain, data=told, pictures=str(pictures), start=str(base)), tmp_path)
    assert job.config.data.resolutions == (64,)
    with pytest.raises(ValueError, match="needs a model to start from"):
        SanaJob(dataclasses.replace(plain, pictures=str(pictures)), tmp_path)
    assert probe(dataclasses.replace(plain, start=str(base))).model.config.width == 64


def test_the_text_encoders_identity_is_of_all_that_it_computes_with(base):
    first, other = SanaSystem.load(base).text, SanaSystem.load(base).text
    assert other.identity() == first.identity()
    other.model.config.attn_logit_softcapping = 1.0
    assert other.identity() != first.identity()
    other = SanaSystem.load(base).text
    other.tokenizer.add_tokens(["anew"])
    assert other.identity() != first.identity()


def test_a_card_names_the_data_of_the_model_that_a_run_started_from(pictures, base, tmp_path):
    cfg = config(pictures, stages=(SanaStage(name="one", steps=1),))
    first = run(cfg, tmp_path / "one", start=str(base))
    assert first.step == 1
    assert main(["export", str(tmp_path / "one"), "-o", str(tmp_path / "model")]) == 0
    card = tmp_path / "model" / "card.json"
    told = json.loads(card.read_text())
    assert told["data"] == str(pictures)
    card.write_text(json.dumps({**told, "data": "pictures of a friend"}))
    run(cfg, tmp_path / "two", start=str(tmp_path / "model"))
    assert main(["export", str(tmp_path / "two"), "-o", str(tmp_path / "last")]) == 0
    last = json.loads((tmp_path / "last" / "card.json").read_text())
    assert last["data"] == f"pictures of a friend; {pictures}"

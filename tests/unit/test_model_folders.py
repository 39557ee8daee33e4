"""Model folders of strangers: code that comes with them, configs that ask for more than there is, paths that
lead out of the folder."""

import builtins
import json
import re
import shutil
import socket
import sys
import zipfile
from pathlib import Path

import diffusers
import judges
import pytest
import torch
from published import pipeline
from safetensors.torch import load_file, save_file

import diptych
from diptych import cli
from diptych.encoders.gemma import GemmaEncoder
from diptych.files.folder import ModelFolderError, check_shapes, locate
from diptych.files.weights import finite, open_weights
from diptych.inference.verifiers import load_verifier
from diptych.spaces import load_space, save_space, tiny_space
from diptych.systems.sana.convert import convert, read_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One whole folder of each kind that is read."""
    folder = tmp_path_factory.mktemp("models")
    pipeline(folder / "sana")
    for kind in ("clip", "siglip", "vlm"):
        getattr(judges, kind)(folder / kind)
    return folder


LOADERS = {
    "system": ("sana", lambda folder: diptych.load(folder, "cpu")),
    "text": ("sana", lambda folder: GemmaEncoder.load(folder / "text_encoder", folder / "tokenizer", "")),
    "space": ("sana", lambda folder: load_space(folder / "vae")),
    "clip": ("clip", lambda folder: load_verifier(f"clip:{folder}", None)),
    "siglip": ("siglip", lambda folder: load_verifier(f"clip:{folder}", None)),
    "vlm": ("vlm", lambda folder: load_verifier(f"vlm:{folder}", None)),
}
CLASSES = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoProcessor",
    "AutoImageProcessor",
    "AutoTokenizer",
)


def configs_of(folder):
    return [path for path in folder.rglob("*.json") if path.name.endswith("config.json")]


def changed(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def auto_map(folder, where="evil.Evil", **more):
    mapped = {name: [where, where] if name == "AutoTokenizer" else where for name in CLASSES}
    for path in configs_of(folder):
        changed(path, auto_map=mapped, **more)


def custom_pipeline(folder):
    for path in folder.rglob("model_index.json"):
        changed(path, text_encoder=["evil", "Evil"], vae=["pipeline", "Evil"], transformer=["evil", "Evil"])


def custom_pipeline_class(folder):
    for path in folder.rglob("model_index.json"):
        changed(path, _class_name=["pipeline", "Evil"])


def unknown_classes(folder):
    auto_map(
        folder, model_type="evil", tokenizer_class="Evil", processor_class="Evil", architectures=["Evil"]
    )


def adapters(folder):
    for path in configs_of(folder):
        told = {"base_model_name_or_path": "owner/evil", "peft_type": "LORA"}
        (path.parent / "adapter_config.json").write_text(json.dumps(told))


def kernels(folder):
    for path in configs_of(folder):
        changed(path, attn_implementation="owner/evil", text_config={"_attn_implementation": "owner/evil"})


TRICKS = {
    "code beside": lambda folder: None,
    "auto_map": auto_map,
    "auto_map of another repository": lambda folder: auto_map(folder, "owner/evil--evil.Evil"),
    "unknown classes": unknown_classes,
    "custom components": custom_pipeline,
    "custom pipeline": custom_pipeline_class,
    "adapters": adapters,
    "auto_map in a part's config": lambda folder: [
        changed(path, text_config={"auto_map": {"AutoModel": "evil.Evil"}}) for path in configs_of(folder)
    ],
    "kernels of the hub": kernels,
}


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("loader", LOADERS)
def test_code_of_a_model_is_never_run_and_never_asked_about(loader, trick, models, tmp_path, monkeypatch):
    kind, load = LOADERS[loader]
    folder = shutil.copytree(models / kind, tmp_path / "model")
    TRICKS[trick](folder)
    mark = tmp_path / "ran"
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        for name in ("evil", "pipeline", "modeling_evil", "__init__"):
            code = f"open({str(mark)!r}, 'w')\nclass Evil:\n    pass\n"
            (place / f"{name}.py").write_text(code)
    asked = []

    def ask(*words):
        asked.append(words)
        return "y"

    def connect(self, address):
        asked.append(address)
        raise OSError("no network here")

    monkeypatch.setattr(builtins, "input", ask)
    monkeypatch.setattr(socket.socket, "connect", connect)
    refused = None
    try:
        load(folder)
    except ValueError as error:
        refused = str(error)
    assert not mark.exists()
    assert asked == []
    assert not [name for name in sys.modules if name.endswith("evil")]
    if trick == "code beside":
        assert refused is None
    if trick.startswith(("auto_map", "kernels")) and loader not in ("system", "space"):
        assert refused is not None
        assert "names code of its own" in refused


def larger(folder, part, **values):
    """A config that asks for more than its weights hold."""
    changed(folder / part / "config.json", **values)


def layers(count):
    return {"num_hidden_layers": count, "layer_types": ["full_attention"] * count}


BLOCKS = {"encoder_block_out_channels": [8, 16], "decoder_block_out_channels": [8, 16]}


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("text_encoder", {"hidden_size": 4800}, "the config's sizes make it"),
        ("text_encoder", {"vocab_size": 10**9}, "the config's sizes make it"),
        ("text_encoder", layers(3), "which the config asks for"),
        ("text_encoder", layers(1), "the config has no place for"),
        ("text_encoder", {"num_hidden_layers": 10**7}, "but the weights hold"),
        ("vae", {"latent_channels": 10**6}, "the config's sizes make it"),
        ("vae", BLOCKS, "the config's sizes make it"),
        ("vae", {"encoder_layers_per_block": [1, 2]}, "which the config asks for"),
        ("vae", {"encoder_qkv_multiscales": [[], []]}, "the config's sizes make it"),
        ("vae", {"decoder_layers_per_block": [1, 10**7]}, "but the weights hold"),
    ],
)
def test_a_config_is_held_against_the_weights_before_memory_is_taken(
    part, values, said, models, tmp_path, monkeypatch
):
    import transformers

    folder = shutil.copytree(models / "sana", tmp_path / "model")
    larger(folder, part, **values)
    made = []
    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", lambda *a, **k: made.append(a))
    if part == "vae":
        monkeypatch.setattr(
            diptych.spaces.latents.DiffusersAutoencoder, "__init__", lambda *a, **k: made.append(a)
        )
    _, load = LOADERS["space" if part == "vae" else "text"]
    with pytest.raises(ModelFolderError, match=said) as refusal:
        load(folder)
    assert str(folder / part / "config.json") in str(refusal.value)
    assert made == []


def test_a_tiny_autoencoder_with_blocks_without_end_is_refused(tmp_path):
    import diffusers

    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    small = diffusers.AutoencoderTiny(num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), **sizes)
    small.save_pretrained(tmp_path)
    assert load_space(tmp_path).factor == 2
    changed(tmp_path / "config.json", num_encoder_blocks=[1, 10**7])
    with pytest.raises(ModelFolderError, match="but the weights hold"):
        load_space(tmp_path)


def test_a_head_over_the_text_encoder_is_left_out(models, tmp_path):
    folder = shutil.copytree(models / "sana" / "text_encoder", tmp_path / "text")
    plain = load_file(folder / "model.safetensors")
    named = {f"model.{name}": tensor for name, tensor in plain.items()}
    named["lm_head.weight"] = plain["embed_tokens.weight"].clone()
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    words = models / "sana" / "tokenizer"
    found = GemmaEncoder.load(folder, words, "").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda weights: weights.pop("encoder.1.conv.0.weight"), "no encoder.1.conv.0.weight"),
        (lambda weights: weights.update({"encoder.99.weight": torch.ones(2)}), "begins and ends with"),
        (lambda weights: weights.update(extra=torch.ones(2)), "no place for extra"),
        (lambda weights: weights.update({"decoder.1.weight": torch.ones(2, 2, 3, 3)}), "sizes make it"),
        (lambda weights: weights.clear() or weights.update(x=torch.ones(1)), "begins and ends with"),
    ],
)
def test_weights_that_are_no_tiny_autoencoder_are_refused(change, said, tmp_path):
    from golden_files import write

    parts = ("encoder", "decoder")
    files = [write(f"tiny_autoencoders/taef2_{part}", tmp_path / f"{part}.safetensors") for part in parts]
    save_space(tiny_space(*files), tmp_path / "space")
    path = tmp_path / "space" / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    with pytest.raises(ValueError, match=said):
        load_space(tmp_path / "space")


@pytest.mark.parametrize("name", ["../outside.bin", "/etc/hostname", "a/../../outside.bin"])
def test_checksums_of_files_outside_the_folder_are_not_looked_at(name, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(b"mine")
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    (folder / "card.json").write_text(json.dumps({"sha256": {name: "0" * 64}}))
    with pytest.raises(ModelFolderError, match="which is outside the folder"):
        open_weights(folder)


def test_shapes_are_compared_name_by_name():
    check_shapes({"a": (1, 2)}, {"a": (1, 2)}, "here")
    for expected, stored, said in (
        ({"a": (1,)}, {}, "here: the weights have no a"),
        ({"a": (1,)}, {"a": (2,)}, r"here: a is \(2,\), the config's sizes make it \(1,\)"),
        ({}, {"b": (1,)}, "here: the config has no place for b"),
    ):
        with pytest.raises(ModelFolderError, match=said):
            check_shapes(expected, stored, "here")


PARTS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn], ids=lambda dtype: str(dtype))
def test_weights_of_a_type_that_holds_no_plain_fractions_are_refused(part, dtype, models, tmp_path):
    folder = shutil.copytree(models / "sana", tmp_path / "model")
    path = folder / part / f"{PARTS[part]}.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    path.unlink()
    save_file({**weights, name: weights[name].to(dtype)}, path)
    with pytest.raises(ModelFolderError, match=f"{name} is of type"):
        diptych.load(folder, "cpu")


def spoilt(path, value):
    """One value of one tensor of a file is no number; returns the tensor's name."""
    weights = load_file(path)
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name].view(-1)[7] = value
    path.unlink()
    save_file(weights, path)
    return name


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("part", PARTS)
def test_a_value_that_is_no_number_is_named_with_its_tensor(part, value, models, tmp_path):
    folder = shutil.copytree(models / "sana", tmp_path / "model")
    name = spoilt(folder / part / f"{PARTS[part]}.safetensors", value)
    told = re.escape(name.removeprefix("model.")) + r" has 1 of [\d,]+ values that are no finite numbers"
    with pytest.raises(ModelFolderError, match=told):
        diptych.load(folder, "cpu")


@pytest.mark.parametrize(
    "argv",
    [
        ("do", "a cat", "--model", "m", "--steps", "1", "-o", "out.png"),
        ("grow", "m", "--depth", "8", "-o", "out"),
        ("prune", "m", "--depth", "4", "--calibrate", "prompts.txt", "--prompts", "1", "-o", "out"),
        ("train", "emoji-small", "--start", "m", "-o", "out"),
    ],
    ids=lambda argv: argv[0],
)
def test_nothing_is_made_of_a_model_with_a_value_that_is_no_number(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(locate(None), tmp_path / "m")
    name = spoilt(folder / "model.safetensors", float("nan"))
    (folder / "card.json").unlink()
    Path("prompts.txt").write_text("a cat\n")
    assert cli.main(list(argv)) == 2
    assert f"{name} has 1 of" in capsys.readouterr().err
    assert not [path for path in tmp_path.glob("out*/*") if path.suffix == ".safetensors"]
    assert not Path("out.png").exists()


PLAIN = {"weight": torch.zeros(2**20)}


def packed(path):
    """A checkpoint whose parts are packed, as any archiver does it."""
    torch.save(PLAIN, path)
    with zipfile.ZipFile(path) as parts:
        found = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, data in found.items():
            parts.writestr(name, data)


def asking(path, old_form):
    """A checkpoint whose pickle asks for a billion zeros."""
    torch.save({"weight": torch.zeros(4)}, path, _use_new_zipfile_serialization=not old_form)
    asks = b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R."
    if old_form:
        magic, _, _ = path.read_bytes().partition(b"}q")
        path.write_bytes(magic + asks)
        return
    with zipfile.ZipFile(path) as parts:
        found = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(path, "w") as parts:
        for name, data in found.items():
            parts.writestr(name, asks if name.endswith("data.pkl") else data)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (packed, r"has [\d,]+ bytes and unpacks to 4,19\d,\d\d\d: refused"),
        (lambda path: asking(path, False), "needs more than plain tensors"),
        (lambda path: asking(path, True), "needs more than plain tensors"),
    ],
    ids=["packed", "zeros", "zeros in the old form"],
)
def test_a_small_checkpoint_takes_no_large_memory(make, said, tmp_path, monkeypatch):
    make(tmp_path / "a.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ModelFolderError, match=said):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("new_form", [True, False])
def test_a_checkpoint_as_torch_writes_it_is_read(new_form, tmp_path):
    torch.save(PLAIN, tmp_path / "a.pth", _use_new_zipfile_serialization=new_form)
    assert read_checkpoint(tmp_path / "a.pth").keys() == PLAIN.keys()


@pytest.mark.parametrize(
    ("form", "name", "ending"),
    [("sana", "out.safetensors", ".pt or .pth"), ("lora-kohya", "out.pth", ".safetensors")],
)
def test_a_file_is_written_under_the_ending_that_it_is_read_by(form, name, ending, models, tmp_path):
    with pytest.raises(ValueError, match=f"is a file that ends in {ending}"):
        convert(models / "sana", tmp_path / name, form)


def test_a_model_without_a_name_is_none(capsys):
    assert cli.main(["info", ""]) == 2
    assert "the name of a model is empty" in capsys.readouterr().err
    with pytest.raises(ModelFolderError, match="is empty"):
        diptych.load("")


def test_large_finite_values_are_numbers():
    # their sum is none
    large = torch.full((100,), torch.finfo(torch.float32).max)
    assert finite("a", large, "here") is large
    with pytest.raises(ModelFolderError, match="here: a has 1 of 100 values"):
        finite("a", torch.cat([large[1:], torch.tensor([float("inf")])]), "here")


@pytest.mark.parametrize(
    ("kind", "scheduler"),
    [("SanaSprintPipeline", "DPMSolverMultistepScheduler"), ("SanaPipeline", "SCMScheduler")],
)
def test_a_pipeline_of_the_other_kinds_scheduler_is_refused(kind, scheduler, models, tmp_path):
    folder = shutil.copytree(models / "sana", tmp_path / "model")
    changed(folder / "model_index.json", _class_name=kind)
    if scheduler == "SCMScheduler":
        diffusers.SCMScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(ModelFolderError, match=f"{kind} has guidance_embeds .* {scheduler}"):
        diptych.load(folder, "cpu")

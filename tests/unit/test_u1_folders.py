"""Published folders in and out: what they draw, what is written back, and what of them no form can say."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import golden_files
import pytest
import torch
from safetensors.torch import load_file, save_file

import diptych
from diptych import cli
from diptych.contracts import Given, Prompt, Stack
from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.tokens import TextTokenizer
from diptych.data.pictures import open_picture
from diptych.files.folder import ModelFolderError
from diptych.files.weights import Weights
from diptych.flow import FlowConfig, guided_velocity
from diptych.inference.draw import draw_targets
from diptych.inference.guidance import Guidance
from diptych.models.meta import without_storage
from diptych.models.mot import Experts, MoT, MoTConfig, u1_5_8b, u1_8b, u1_a3b
from diptych.models.mot.convert import (
    config_from_published,
    config_to_published,
    flow_from_published,
    from_published,
    to_published,
)
from diptych.request import Plan, Role, Task
from diptych.systems.registry import recognised
from diptych.systems.u1.convert import convert
from diptych.systems.u1.defaults import CONVERSATION, SAMPLER
from diptych.systems.u1.files import read_contents, read_folder, stored_weights, write_published
from diptych.systems.u1.lora import read_adapters, write_adapters
from diptych.systems.u1.system import U1System

RUN = 5e-5
INDEX = golden_files.load_json("u1_folder/index")
RUNS = {
    name: run
    for name, run in INDEX["runs"].items()
    if run["method"] in ("t2i_generate", "it2i_generate") and not run["settings"]["think_mode"]
}
SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path) -> Path:
    return golden_files.write_folder("u1_folder/model", tmp_path / "published")


@pytest.fixture(scope="module")
def system(tmp_path_factory) -> U1System:
    """The golden folder with the system text of its runs, float32."""
    made = golden_files.write_folder("u1_folder/model", tmp_path_factory.mktemp("golden") / "model")
    text = RUNS["draw"]["settings"]["system_prompt"]
    (made / "diptych.json").write_text(json.dumps({"conversation": {"system": {"draw": text}}}))
    return diptych.load(made, "cpu", "float32").system


def as_set(system: U1System, settings: dict) -> U1System:
    """The system with the settings of a golden run. Its times are 1 - sigma."""
    low, high = settings["cfg_interval"]
    sampler = replace(
        system.flow.sampler,
        num_steps=settings["num_steps"],
        shift=settings["timestep_shift"],
        guidance_norm=settings["cfg_norm"],
        guidance_interval=(1 - high, 1 - low),
    )
    flow = replace(system.flow, sampler=sampler)
    return U1System(system.model, system.tokenizer, flow, system.native, conversation=system.conversation)


@pytest.mark.parametrize("name", RUNS)
@torch.inference_mode()
def test_complete_runs_are_the_published_ones(system, name):
    settings = RUNS[name]["settings"]
    assert settings["t_eps"] == system.sampler.sigma_min
    width, height = settings["image_size"]
    pictures = golden_files.FOLDER / "u1_folder" / "pictures"
    given = tuple(
        Given(Role.SOURCE, torch.tensor(open_picture(pictures / f"{picture}.png")).permute(2, 0, 1))
        for picture in settings.get("pictures", ())
    )
    plan = Plan(
        task=Task.EDIT if given else Task.TEXT_TO_IMAGE,
        prompt=settings["prompt"],
        width=width,
        height=height,
        steps=settings["num_steps"],
        guidance_scale=settings["cfg_scale"],
        image_guidance_scale=settings.get("img_cfg_scale", 1.0),
    )
    # pictures of one call share its generator there
    rows = settings["batch_size"]
    generator = torch.Generator().manual_seed(settings["seed"])
    drawn = draw_targets(
        as_set(system, settings),
        [plan] * rows,
        [Prompt(plan.prompt)] * rows,
        [Stack(width, height, given=given)] * rows,
        [generator] * rows,
    )[:, 0]
    theirs = golden_files.load(f"u1_folder/{'edits' if given else 'draws'}")[f"{name}.picture"]
    worst = float((drawn - theirs).abs().max() / theirs.abs().max())
    assert worst <= RUN, f"differs by {worst:.2e} of the largest value"


def test_guidance_is_computed_where_the_published_formulas_compute_it(system):
    def passes(sampler, scales, given):
        """Passes of a first step at the level 0.9, and whether they are so at the ends of an interval."""
        flow = replace(system.flow, sampler=replace(system.flow.sampler, **sampler))
        made = U1System(system.model, system.tokenizer, flow, 64, conversation=system.conversation)
        frames = (Given(Role.SOURCE, torch.zeros(3, 32, 32, dtype=torch.uint8)),) if given else ()
        condition = made.read([Prompt("a disc")], [Stack(32, 32, given=frames)])
        guidance = Guidance(made, condition, [scales[0]], [scales[1]], given)
        return guidance._kinds[0], guidance._guides(0.9), guidance._guides(0.5)

    kinds = {scales: passes({}, scales, True)[0] for scales in ((1, 1), (4, 1), (2, 2), (4, 2), (0.5, 1))}
    assert {scales: len(names) for scales, names in kinds.items()} == {
        (1, 1): 1,
        (4, 1): 2,
        (2, 2): 2,
        (4, 2): 3,
        (0.5, 1): 2,
    }
    assert "unconditional" in kinds[2, 2]
    # without pictures, at 1 and below it the conditional pass stands alone; the interval is a closed one
    interval = {"guidance_interval": (0.5, 0.9)}
    assert passes(interval, (0.5, 1), False) == (("conditional",), True, True)
    assert passes(interval, (4, 1), True)[1:] == (False, False)
    assert passes({"guidance_interval": (0.5, 1.0)}, (4, 1), True)[1:] == (True, False)


def test_norms_limit_only_what_is_guided_by_more_than_one():
    velocities = {"conditional": torch.ones(2, 1, 3, 4, 4), "picture_only": torch.full((2, 1, 3, 4, 4), 9.0)}
    guided = guided_velocity(velocities, torch.tensor([0.5, 0.5]), torch.tensor([1.0, 1.5]), "global")
    # 9 + 0.5 (1 - 9) = 5 as it is, and brought to the length of the conditional one
    assert guided[:, 0, 0, 0, 0].tolist() == pytest.approx([5.0, 1.0])


def test_a_published_folder_is_taken_with_the_published_defaults(folder):
    family = recognised(folder)
    assert family is not None
    assert family.name == "u1"
    system = diptych.load(folder, "cpu").system
    assert system.model.embedding.weight.dtype is torch.bfloat16
    assert (system.sampler.num_steps, system.sampler.shift, system.sampler.guidance_scale) == (50, 3.0, 4.0)
    assert (system.sampler.image_guidance_scale, system.native, system.settings.max_media) == (1.0, 2048, 10)
    # what trains it is the config's, what draws it the drawing functions'
    assert (system.flow.objective.sigma_min, system.flow.drawn_sigma_min) == (0.05, 0.02)
    conversation = system.conversation
    assert (conversation.max_tokens, conversation.think_tokens, conversation.story_pictures) == (
        1024,
        1024,
        10,
    )
    assert conversation.system.keys() == {"draw", "story"}
    with pytest.raises(ValueError, match="dtype must be one of auto, float32, bfloat16, got 'int8'"):
        diptych.load(folder, "cpu", "int8")


def test_no_file_that_only_some_folders_have_matters(folder):
    _, first = read_contents(folder)
    text = "ein grünes Haus, 12 红色的圆 <think> it's"
    (folder / "tokenizer.json").write_text("{}")
    (folder / "generation_config.json").write_text('{"temperature": 7}')
    _, again = read_contents(folder)
    assert first.encode(text) == again.encode(text)
    assert first.ids == again.ids


def test_a_folder_of_ours_goes_out_and_comes_back_to_the_byte(folder, tmp_path):
    convert(folder, tmp_path / "ours", "diptych")
    convert(tmp_path / "ours", tmp_path / "back", "u1")
    assert {path.name for path in (tmp_path / "back").iterdir()} == {path.name for path in folder.iterdir()}
    for path in folder.iterdir():
        back = tmp_path / "back" / path.name
        if path.suffix == ".json":
            assert json.loads(back.read_text()) == json.loads(path.read_text()), path.name
        else:
            assert back.read_bytes() == path.read_bytes(), path.name
    ours, theirs = (read_folder(at, "cpu", torch.float32) for at in (tmp_path / "ours", folder))
    assert all(
        torch.equal(tensor, theirs["model"].state_dict()[name])
        for name, tensor in ours["model"].state_dict().items()
    )
    assert (ours["flow"], ours["conversation"], ours["native"]) == (
        theirs["flow"],
        theirs["conversation"],
        theirs["native"],
    )


def mixed_folder(folder: Path) -> Path:
    """The golden model with experts as published ones lie: numbers with gaps, a second family of shards, two
    types within one file."""
    golden_files.write_folder("u1_folder/model", folder)
    for path in folder.glob("model*"):
        path.unlink()
    weights = golden_files.load("u1_moe/model")
    config = golden_files.load_json("u1_moe/config")
    # the set's tokenizer has more tokens than the model with experts
    rows = 656
    config["llm_config"]["vocab_size"] = rows
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        weights[name] = weights[name].repeat(-(-rows // len(weights[name])), 1)[:rows].contiguous()
    (folder / "config.json").write_text(json.dumps(config))
    places = {}
    for name, tensor in weights.items():
        if ".experts." in name:
            places[name] = f"moemodel-0000{int(name.split('.')[3]) + 1}-of-00002.safetensors"
        elif name.startswith("language_model."):
            places[name] = "model-00016-of-00016.safetensors"
        else:
            places[name] = "model-00001-of-00016.safetensors"
        generation = "mot_gen" in name or "embedder" in name
        weights[name] = tensor if generation else tensor.bfloat16()
    for file in set(places.values()):
        held = {name: weights[name] for name, place in places.items() if place == file}
        save_file(held, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def test_gaps_families_of_shards_and_mixed_types_come_back_as_they_were(tmp_path):
    folder = mixed_folder(tmp_path / "published")
    system = U1System.load(folder, dtype=torch.float32)
    assert {parameter.dtype for parameter in system.model.parameters()} == {torch.float32}
    convert(folder, tmp_path / "ours", "diptych")
    kept = load_file(tmp_path / "ours" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32, torch.bfloat16}
    convert(tmp_path / "ours", tmp_path / "back", "u1")
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert shards == sorted(path.name for path in (tmp_path / "back").glob("*.safetensors"))
    assert all((tmp_path / "back" / name).read_bytes() == (folder / name).read_bytes() for name in shards)


def test_one_file_and_the_convolutional_head_are_read_as_well(folder, tmp_path):
    contents, _ = read_contents(folder)
    config = replace(contents.model, head="conv", head_width=24)
    model = MoT(config)
    model.initialise(torch.Generator().manual_seed(0))
    values = dict(model.state_dict())
    for path in folder.glob("model*"):
        path.unlink()
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "use_pixel_head": True}))
    save_file(to_published(values, config), folder / "model.safetensors")
    again, _ = read_contents(folder)
    assert again.model == config
    weights = stored_weights(folder)
    assert all(torch.equal(weights[name], value) for name, value in values.items())
    convert(folder, tmp_path / "ours", "diptych")
    convert(tmp_path / "ours", tmp_path / "back", "u1")
    assert not list((tmp_path / "back").glob("*.index.json"))


def test_others_code_reads_the_tokenizer_that_is_written(folder, tmp_path):
    from transformers import Qwen2TokenizerFast

    convert(folder, tmp_path / "ours", "diptych")
    convert(tmp_path / "ours", tmp_path / "back", "u1")
    theirs = Qwen2TokenizerFast.from_pretrained(tmp_path / "back")
    _, ours = read_contents(tmp_path / "back")
    text = "Draw <thing>, it's 12 红色的圆  ein grünes Haus\n\n"
    assert theirs.encode(text) == ours.encode(text)
    assert theirs.convert_tokens_to_ids("<img>") == ours.ids["<img>"]


def test_settings_stand_in_a_file_of_their_own(folder, tmp_path):
    told = {"sampler": {"num_steps": 8, "guidance_scale": 1.0}, "conversation": {"system": {"draw": "Draw."}}}
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(told))
    assert (
        cli.main(["convert", str(folder), str(tmp_path / "ours"), "--to", "diptych", "--settings", str(path)])
        == 0
    )
    convert(tmp_path / "ours", tmp_path / "back", "u1")
    for made in (tmp_path / "ours", tmp_path / "back"):
        contents, _ = read_contents(made)
        assert (contents.flow.sampler.num_steps, contents.flow.sampler.guidance_scale) == (8, 1.0)
        assert contents.flow.sampler.shift == SAMPLER.shift
        # the text of stories is as it was
        assert contents.conversation.system == {**CONVERSATION.system, "draw": "Draw."}
    for wrong, said in (
        ({"sampler": {"steps": 8}}, r"diptych.json.sampler: unknown key 'steps'"),
        ({"conversation": {"system": "Draw."}}, r"conversation.system: Expected `object`, got `str`"),
        ({"samplers": {}}, "unknown key 'samplers'"),
    ):
        (folder / "diptych.json").write_text(json.dumps(wrong))
        with pytest.raises(ModelFolderError, match=said):
            read_contents(folder)


def test_what_a_published_config_cannot_say_is_refused_by_name(folder, tmp_path):
    with pytest.raises(ValueError, match=r"conversation\.form is 'marks'; published folders have 'neo1_0'"):
        convert(Path(diptych.__file__).parent / "assets" / "emoji", tmp_path / "out", "u1")
    assert not (tmp_path / "out").exists()
    contents, tokenizer = read_contents(folder)
    weights = stored_weights(folder)
    experts = Experts(count=2, per_token=1, width=8)
    for changes, said in (
        ({"model": replace(contents.model, scalar_features=128)}, "model.scalar_features is 128"),
        ({"model": replace(contents.model, gen_experts=experts)}, "experts in both streams or in none"),
        ({"flow": replace(contents.flow, noise_scale_max=4.0)}, "model.noise_scale_max is 8.0"),
    ):
        with pytest.raises(ValueError, match=said):
            write_published(tmp_path / "out", replace(contents, **changes), tokenizer, weights)


def test_a_tokenizer_that_cuts_texts_otherwise_is_not_written_as_a_published_one(folder, tmp_path):
    contents, _ = read_contents(folder)
    words = TextTokenizer.train(["a cat above two carrots"] * 3, 400, FORMS["neo1_0"].marks)
    with pytest.raises(ValueError, match="cuts texts in another way"):
        write_published(tmp_path / "out", contents, words, stored_weights(folder))


# LoRA


def adapters_of(config: MoTConfig, rank: int = 4) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    names = ("blocks.0.gen.q", "blocks.2.gen.ffn.down")
    with without_storage():
        model = MoT(config)
    return {
        name: (
            torch.randn(rank, model.get_submodule(name).in_features, generator=generator),
            torch.randn(model.get_submodule(name).out_features, rank, generator=generator),
        )
        for name in names
    }


@pytest.mark.parametrize(
    ("prefix", "style"), [("", "published"), ("diffusion_model.", "published"), ("", "ours")]
)
def test_adapters_are_added_as_the_public_code_adds_them(folder, tmp_path, prefix, style):
    contents, _ = read_contents(folder)
    adapters, path = adapters_of(contents.model), tmp_path / "lora.safetensors"
    write_adapters(path, adapters, contents.model, style)
    tensors = {f"{prefix}{key}": tensor for key, tensor in load_file(path).items()}
    if style == "published":
        assert f"{prefix}language_model.model.layers.0.self_attn.q_proj_mot_gen.lora_down.weight" in tensors
        # twice alpha, twice the change
        tensors = {key: tensor * 2 if key.endswith("alpha") else tensor for key, tensor in tensors.items()}
    save_file(tensors, path)
    convert(folder, tmp_path / "merged", "u1", lora=path)
    before, after = (stored_weights(at, contents.model) for at in (folder, tmp_path / "merged"))
    factor = 2.0 if style == "published" else 1.0
    for name in before:
        down, up = adapters.get(name.removesuffix(".weight"), (None, None))
        expected = before[name] if down is None else (before[name].float() + factor * up @ down).bfloat16()
        torch.testing.assert_close(after[name], expected, rtol=0, atol=0)


def test_adapters_of_another_model_are_refused(folder, tmp_path):
    contents, _ = read_contents(folder)
    path = tmp_path / "lora.safetensors"
    layer = "language_model.model.layers.0.self_attn.q_proj_mot_gen"
    deeper = layer.replace("layers.0", "layers.9")
    down, up = torch.zeros(4, 64), torch.zeros(128, 4)
    for tensors, said in (
        ({"transformer.x.lora_down.weight": down}, "is of another model"),
        ({f"{layer}.lora_down.weight": down}, "has no up matrix"),
        (
            {f"{layer}.lora_down.weight": down[:, :32].contiguous(), f"{layer}.lora_up.weight": up},
            r"makes \(128, 32\), the weight",
        ),
        ({f"{layer}.lora_down.weight": down[:2], f"{layer}.lora_up.weight": up}, "make no product"),
        (
            {f"{deeper}.lora_down.weight": down, f"{deeper}.lora_up.weight": up},
            "has no blocks.9.gen.q.weight",
        ),
        ({"x.diff": down}, "is no part of an adapter"),
        ({f"{layer}.lora_down.weight": down[:0], f"{layer}.lora_up.weight": up[:, :0]}, "make no product"),
        (
            {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up, f"{layer}.alpha": up[:3, 0]},
            "and one number is needed",
        ),
        ({f"{layer}.lora_down.weight": down.to(torch.int8)}, "of type torch.int8"),
        (
            {f"{prefix}{layer}.lora_down.weight": down + 0 for prefix in ("", "diffusion_model.")},
            "is there under two names",
        ),
    ):
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        with pytest.raises(ModelFolderError, match=said):
            convert(folder, tmp_path / "out", "u1", lora=path)
    path.write_text("no tensors")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        read_adapters(path, contents.model)
    assert not (tmp_path / "out").exists()


# sizes, before anything is loaded


@pytest.mark.parametrize(
    ("config", "understanding", "generation", "shared"),
    [
        (u1_8b(), 8.121, 8.186, 1.245),
        (u1_5_8b(), 8.121, 8.167, 1.245),
        (u1_a3b(), 29.92, 8.197, 0.622),
    ],
)
def test_published_sizes_have_the_published_parameters_and_names(config, understanding, generation, shared):
    from diptych.commands.info import _streams

    with without_storage():
        model = MoT(config)
    counts = {name: round(count / 1e9, 3) for name, count in _streams(model).items()}
    expected = {"understanding": understanding, "generation": generation, "shared": shared}
    assert counts == pytest.approx(expected, abs=2e-3)
    state = dict(model.state_dict())
    published = to_published(state, config)
    back = from_published(published, config)
    assert {name: t.shape for name, t in back.items()} == {name: t.shape for name, t in state.items()}
    names = golden_files.load("u1_moe/model" if config.und_experts else "u1_dense/model")

    def kinds(found):
        return {".".join("#" if part.isdigit() else part for part in name.split(".")) for name in found}

    def without_head(found):
        return {name for name in found if "fm_head" not in name}

    assert without_head(kinds(published)) == without_head(kinds(names))


def test_info_tells_of_a_folder_without_loading_it(folder, monkeypatch, capsys):
    for method in ("__getitem__", "copy", "all"):
        monkeypatch.setattr(Weights, method, lambda *_: pytest.fail("weights were read"))
    assert cli.main(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    stored = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert told["bytes"]["bfloat16"] == pytest.approx(stored, rel=0.02)
    assert sum(told["streams"].values()) == told["parameters"]
    # keys and values: 3 layers, 2 heads of 32, 2 bytes, 1,000 tokens
    assert told["cache_bytes"]["bfloat16"] == 2 * 3 * 2 * 32 * 2 * 1000
    assert told["draws"] == {"side": 2048, "steps": 50, "guidance_scale": 4.0}
    (folder / SHARD).unlink()
    assert cli.main(["info", str(folder)]) == 2
    assert f"{SHARD} is missing" in " ".join(capsys.readouterr().err.split())


LOADS = """
import sys
from pathlib import Path
import torch
import diptych
from diptych.systems.u1.files import read_folder

def anonymous():
    told = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in told if line.startswith("Anonymous:"))

read_folder(Path(sys.argv[2]), "cpu")  # what torch and the tokenizer take once is no part of it
before = anonymous()
model = read_folder(Path(sys.argv[1]), "cpu")["model"]
print(anonymous() - before, sum(p.numel() * p.element_size() for p in model.parameters()))
"""


def test_a_model_is_never_twice_in_memory(folder, tmp_path):
    contents, tokenizer = read_contents(folder)
    config = replace(contents.model, width=512, depth=6, ffn_width=1536, heads=8, kv_heads=4, head_dim=64)
    large = tmp_path / "large"
    with without_storage():
        layout = {name: t.to(torch.bfloat16) for name, t in MoT(config).state_dict().items()}
    write_published(large, replace(contents, model=config), tokenizer, Zeros(layout))
    command = [sys.executable, "-c", LOADS, str(large), str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    taken, weights = map(int, done.stdout.split())
    assert weights > 50e6
    assert 0.9 * weights < taken < 1.15 * weights


class Zeros(dict):
    """Weights that take no memory until they are asked for."""

    def layout(self):
        return dict(self)

    def __getitem__(self, name):
        empty = super().__getitem__(name)
        return torch.zeros(empty.shape, dtype=empty.dtype)


def test_published_configs_say_what_ours_do():
    for config in (u1_8b(), u1_5_8b(), u1_a3b()):
        flow = FlowConfig(noise_scale_max=config.noise_scale_max)
        told = config_to_published(config, flow, torch.bfloat16, end=2, pad=0)
        again = config_from_published(json.loads(json.dumps(told)))
        # the public code has the widths of its heads for itself
        assert again == config
        assert replace(flow_from_published(told), sampler=flow.sampler) == flow

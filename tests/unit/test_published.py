"""Published weights and settings as strangers bring them: what is read, what is refused, and that nothing is
read wrong in silence. The table of docs/published.md is made here."""

import dataclasses
import inspect
import json
import os
import re
from pathlib import Path

import diffusers
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from published import pipeline

from diptych.encoders.gemma import GemmaEncoder
from diptych.files.folder import ModelFolderError, check_depth, locate, refuse_code
from diptych.files.lineage import data_of
from diptych.flow import DPM, SamplerConfig, noise_scale
from diptych.inference.guidance import Guidance
from diptych.inference.verifiers import load_verifier
from diptych.models.linear_dit import LinearDiT, LinearDiTConfig, trim_text
from diptych.models.linear_dit import convert as linear
from diptych.models.linear_dit.config import ratio_of
from diptych.models.linear_dit.layers import position_table, sinusoid
from diptych.models.mot import MoT
from diptych.models.mot import convert as mot
from diptych.request import RequestError
from diptych.systems.registry import open_system, settings_of
from diptych.systems.sana import lora
from diptych.systems.sana.convert import from_checkpoint, read_checkpoint
from diptych.systems.sana.settings import SCHEDULERS, sampler_of
from diptych.systems.sana.system import SanaSystem
from diptych.systems.u1.job import _facts
from diptych.systems.u1.recipes import RECIPES

DOCS = Path(__file__).resolve().parents[2] / "docs" / "published.md"
TABLES = {
    "SanaTransformer2DModel": linear.FIELDS,
    **SCHEDULERS,
    "LoRA (peft, and diffusers' header)": lora.FIELDS,
    "SenseNova-U1 config.json": mot.FIELDS,
    "SenseNova-U1 llm_config": mot.LLM_FIELDS,
    "SenseNova-U1 vision_config": mot.VISION_FIELDS,
}


def published_mot(**changes):
    llm = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 48,
        "rms_norm_eps": 1e-6,
        "rope_theta": 5e6,
        "rope_theta_hw": 1e4,
    }
    return {
        "llm_config": {**llm, **changes.pop("llm", {})},
        "vision_config": {"patch_size": 16, "hidden_size": 16, "rope_theta_vision": 1e4},
        "use_pixel_head": True,
        "noise_scale": 1.0,
        "noise_scale_mode": "resolution",
        "noise_scale_max_value": 16.0,
        "noise_scale_base_image_seq_len": 64,
        "add_noise_scale_embedding": True,
        **changes,
    }


def conv_weights():
    """Weights of a model with the convolutional head, under the published names."""
    config = dataclasses.replace(mot.config_from_published(published_mot()), head_width=20)
    model = MoT(config)
    model.initialise(torch.Generator().manual_seed(0))
    for parameter in model.pixel_head.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return config, model, mot.to_published(model.state_dict(), config)


def test_the_convolutional_head_goes_in_and_out_under_its_published_names():
    _, model, weights = conv_weights()
    names = {name for name in weights if "fm_head" in name}
    assert names == {f"fm_modules.fm_head.conv{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")}
    config = mot.config_from_published(published_mot(), [(n, tuple(w.shape)) for n, w in weights.items()])
    assert (config.head, config.head_width) == ("conv", 20)
    back = mot.from_published(weights, config)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_the_convolutional_head_computes_what_its_notes_say():
    _, model, weights = conv_weights()
    hidden = torch.randn(2 * 6, 32, generator=torch.Generator().manual_seed(2))
    # tokens as a map, shuffle 2, conv, exact GELU, shuffle 2, conv to 192, shuffle 8
    x = hidden.view(2, 2, 3, 32).permute(0, 3, 1, 2)
    for number in (1, 2):
        kernel, bias = (weights[f"fm_modules.fm_head.conv{number}.{kind}"] for kind in ("weight", "bias"))
        x = F.conv2d(F.pixel_shuffle(x, 2), kernel, bias, padding=1)
        x = F.gelu(x) if number == 1 else x
    assert x.shape[1] == 192
    torch.testing.assert_close(model.pixel_head(hidden, 2, 3), F.pixel_shuffle(x, 8), rtol=0, atol=1e-5)


def test_a_head_that_the_config_does_not_name_is_refused():
    shapes = [(name, tuple(weight.shape)) for name, weight in conv_weights()[2].items()]
    with pytest.raises(ValueError, match="use_pixel_head is False"):
        mot.config_from_published(published_mot(use_pixel_head=False), shapes)


def test_layers_that_the_weights_do_not_hold_are_refused_before_any_is_made():
    shapes = [(name, tuple(weight.shape)) for name, weight in conv_weights()[2].items()]
    for count, said in ((10_000_000, "the weights hold"), (2, "hold 1 layers")):
        with pytest.raises(ValueError, match=said):
            mot.config_from_published(published_mot(llm={"num_hidden_layers": count}), shapes)
    with pytest.raises(ModelFolderError, match="num_layers is 10000000, but the weights hold 1"):
        check_depth({"num_layers": 10_000_000}, ["a"], "config.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concat_time_token_num", 1),
        ("use_adaLN", True),
        ("downsample_ratio", 0.25),
        ("add_noise_scale_embedding", False),
        ("fm_head_layers", 6),
        ("tie_word_embeddings", True),
        ("time_schedule", "dynamic"),
        ("something_new", 3),
    ],
)
def test_settings_of_the_native_model_that_change_results_are_refused(name, value):
    mot.config_from_published(published_mot(something_new=None, top_k=50, _name_or_path="x"))
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        mot.config_from_published(published_mot(**{name: value}))


def test_noise_scale_modes_are_those_of_the_notes():
    flows = {
        mode: mot.flow_from_published(published_mot(noise_scale_mode=mode))
        for mode in ("resolution", "dynamic", "dynamic_sqrt", "none")
    }
    found = {
        mode: (noise_scale(flow, 256), noise_scale(flow, 256, training=True)) for mode, flow in flows.items()
    }
    assert found == {
        "resolution": (2.0, 2.0),
        "dynamic": (2.0, 2.0),
        # drawn with the square root, trained with the constant
        "dynamic_sqrt": (2.0**0.5, 1.0),
        "none": (1.0, 1.0),
    }


def native_weights(**changes):
    config = LinearDiTConfig(
        depth=1, width=64, cross_heads=2, channels=4, caption_channels=8, position_base=8, **changes
    )
    model = LinearDiT(config)
    model.initialise(torch.Generator().manual_seed(0))
    return config, linear.to_native(model.state_dict(), config=config)


@pytest.mark.parametrize("scale", [None, 1.0, 2.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_native_table_of_positions_comes_along(scale, dtype):
    config, weights = native_weights(position_scale=scale)
    assert ("pos_embed" in weights) == (scale is not None)
    stored = {name: tensor.to(dtype) for name, tensor in weights.items()}
    found = linear.config_from_native(stored, cross_heads=2)
    assert found.position_scale == scale
    assert scale is None or found.position_base == config.position_base


def test_an_empty_table_of_positions_is_none_where_no_model_of_the_size_has_one():
    _, weights = native_weights()
    weights["pos_embed"] = torch.zeros(1, 32 * 32, 64)
    assert linear.config_from_native(weights, cross_heads=2).position_scale is None


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (torch.zeros(1, 64 * 64, 64), "does not tell with which scale"),
        (torch.rand(1, 64, 64), "not the sine-cosine one"),
        (torch.rand(1, 63, 64), "not the sine-cosine one"),
    ],
)
def test_a_table_of_positions_that_decides_nothing_is_refused(table, said):
    _, weights = native_weights()
    with pytest.raises(ValueError, match=said):
        linear.config_from_native({**weights, "pos_embed": table}, cross_heads=2)
    told = linear.config_from_native({**weights, "pos_embed": table}, 2, position_scale=1.0)
    assert told.position_scale == 1.0


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_base_of_the_same_size_tells_what_an_empty_table_of_positions_does_not(scale, tmp_path):
    base = tmp_path / "base"
    pipeline(base)
    path = base / "transformer" / "config.json"
    plain = json.loads(path.read_text())
    _, weights = native_weights()
    weights = {**weights, "pos_embed": torch.zeros(1, 64 * 64, 64)}
    weights["y_embedder.y_proj.fc1.weight"] = torch.zeros(64, 24)
    torch.save(weights, tmp_path / "native.pth")
    for told in ({}, {"sample_size": 32, "interpolation_scale": scale}):
        path.write_text(json.dumps({**plain, **told}))
        with pytest.raises(ValueError, match="Name with --base a model of the same size"):
            from_checkpoint(tmp_path / "native.pth", base, 2)
    path.write_text(json.dumps({**plain, "sample_size": 64, "interpolation_scale": scale}))
    config = from_checkpoint(tmp_path / "native.pth", base, 2).model.config
    assert (config.position_scale, config.position_base) == (scale, 64)


@pytest.mark.parametrize("ratio", [1.1, 2.3, 2.5, 2.7, 3.0, 1 / 3, 4.9])
@pytest.mark.parametrize("heads", [1, 3, 7, 36, 70])
def test_inner_widths_are_rounded_as_diffusers_rounds_them(ratio, heads):
    with torch.device("meta"):
        theirs = transformer(
            num_attention_heads=heads,
            num_cross_attention_heads=1,
            cross_attention_head_dim=32 * heads,
            cross_attention_dim=32 * heads,
            num_layers=1,
            mlp_ratio=ratio,
        )
        depthwise = theirs.transformer_blocks[0].ff.conv_depth.weight
        config = linear.config_from_diffusers(json.loads(theirs.to_json_string()))
        assert LinearDiT(config).blocks[0].feed_forward.depthwise.weight.shape == depthwise.shape
        # native weights tell the inner width alone, and it goes back to diffusers as a ratio
        native = linear.to_native(LinearDiT(config).state_dict())
        back = linear.config_from_native(native, cross_heads=1)
        again = diffusers.SanaTransformer2DModel.from_config(linear.config_to_diffusers(back))
    assert again.transformer_blocks[0].ff.conv_depth.weight.shape == depthwise.shape
    assert config.widened(3).ffn_width == 3 * config.ffn_width


def test_every_inner_width_has_a_ratio_that_gives_it_back():
    for width in (32, 96, 224, 1152, 2240):
        assert all(int(ratio_of(inner, width) * width) == inner for inner in range(1, 4 * width))


@pytest.mark.parametrize("row", [0, 1])
def test_text_without_any_real_token_is_refused(row):
    mask = torch.ones(2, 3, dtype=torch.bool)
    mask[row] = False
    with pytest.raises(ValueError, match=f"row {row} of the text has no real token"):
        trim_text(torch.zeros(2, 3, 4), mask)


@torch.no_grad()
def test_a_table_of_positions_is_the_one_that_the_model_adds():
    config, weights = native_weights(position_scale=2.0)
    assert torch.equal(weights["pos_embed"][0], position_table(8, 8, config.width, 8, 2.0))


@pytest.mark.parametrize("shift", [1.0, 1.5, 3.0, 5.0, 7.5])
def test_whole_times_are_those_of_the_public_scheduler(shift):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=shift
    )
    config = LinearDiTConfig(depth=1, width=32, cross_heads=1, whole_time=True)
    model, seen = LinearDiT(config), []
    model.time_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    solver = DPM(SamplerConfig(solver="dpm", shift=shift, first_sigma=0.999))
    for steps in range(1, 101):
        scheduler.set_timesteps(steps)
        seen.clear()
        now = torch.tensor(solver.points(steps)[:-1], dtype=torch.float64)
        with torch.no_grad():
            model._time(now[:, None], None, torch.float32)
        expected = sinusoid(scheduler.timesteps[:, None].float())
        assert torch.equal(seen[0], expected), (steps, shift)


def test_levels_reach_the_model_as_the_solver_has_them():
    seen = []
    solver = DPM(SamplerConfig(solver="dpm", first_sigma=0.999))
    now, then = (torch.full((2,), level, dtype=torch.float64) for level in (0.7001, 0.5))
    solver.step(lambda x, sigma: seen.append(sigma) or x, torch.randn(2, 1, 1, 2, 2), now, then)
    assert seen[0].dtype == torch.float64


def scheduler_config(kind, **changes):
    made = getattr(diffusers, kind)
    told = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}
    own = told if kind.startswith("DPM") else {}
    return {**json.loads(made(**own).to_json_string()), **changes}


DPM_KIND, EULER_KIND = "DPMSolverMultistepScheduler", "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (DPM_KIND, "solver_order", 3),
        (DPM_KIND, "algorithm_type", "sde-dpmsolver++"),
        (DPM_KIND, "solver_type", "heun"),
        (DPM_KIND, "final_sigmas_type", "sigma_min"),
        (DPM_KIND, "use_dynamic_shifting", True),
        (DPM_KIND, "use_karras_sigmas", True),
        (DPM_KIND, "prediction_type", "epsilon"),
        (DPM_KIND, "num_train_timesteps", 500),
        (DPM_KIND, "a_new_one", "x"),
        (EULER_KIND, "use_dynamic_shifting", True),
        (EULER_KIND, "use_karras_sigmas", True),
        (EULER_KIND, "invert_sigmas", True),
        (EULER_KIND, "shift_terminal", 0.1),
        (EULER_KIND, "stochastic_sampling", True),
        ("SCMScheduler", "sigma_data", 1.0),
        ("SCMScheduler", "prediction_type", "epsilon"),
    ],
)
def test_settings_of_schedulers_that_change_results_are_refused(kind, name, value):
    sampler_of(scheduler_config(kind))
    with pytest.raises(ValueError, match=re.escape(f"{name} is {value!r}")):
        sampler_of(scheduler_config(kind, **{name: value}))


def test_a_setting_whose_default_changes_results_must_be_told():
    values = scheduler_config(DPM_KIND)
    del values["use_flow_sigmas"]
    with pytest.raises(ValueError, match="use_flow_sigmas is False"):
        sampler_of(values)


def transformer(**changes):
    torch.manual_seed(0)
    made = diffusers.SanaTransformer2DModel(
        **{
            **{
                "in_channels": 4,
                "out_channels": 4,
                "num_attention_heads": 2,
                "num_layers": 2,
                "num_cross_attention_heads": 2,
                "cross_attention_head_dim": 32,
                "cross_attention_dim": 64,
                "caption_channels": 24,
                "sample_size": 8,
                "qk_norm": "rms_norm_across_heads",
            },
            **changes,
        }
    )
    return made.eval()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("guidance_embeds_scale", 0.2),
        ("attention_bias", True),
        ("norm_eps", 1e-5),
        ("qk_norm", "layer_norm"),
        ("dropout", 0.1),
        ("num_layers", "2"),
        ("mlp_ratio", 1e9),
    ],
)
def test_settings_of_the_denoiser_that_change_results_are_refused(name, value):
    values = json.loads(transformer().to_json_string())
    linear.config_from_diffusers(values)
    with pytest.raises(ValueError, match=name if name != "num_layers" else "depth"):
        linear.config_from_diffusers({**values, name: value})


class Alone:
    """A system whose passes say which they are."""

    joins_passes, embeds_guidance, token = False, False, 1

    def __init__(self, below):
        self.sampler = SamplerConfig(guides_below_one=below)

    def denoise(self, x, sigma, condition):
        return torch.full_like(x, condition.value)


@dataclasses.dataclass
class Told:
    value: float
    scale: torch.Tensor

    def dropped(self, text, media):
        return Told(0.0, self.scale)

    def prepare(self):
        pass


@pytest.mark.parametrize(("below", "expected"), [(True, 0.5), (False, 1.0)])
def test_a_scale_below_one_mixes_only_where_the_sampler_says_so(below, expected):
    x = torch.zeros(1, 1, 1, 2, 2)
    guidance = Guidance(Alone(below), Told(1.0, torch.ones(1)), [0.5], [1.0], False)
    assert torch.equal(guidance(x, torch.tensor([0.5])), torch.full_like(x, expected))
    assert not sampler_of(scheduler_config(DPM_KIND))[0].guides_below_one


REMOTE = {"auto_map": {"AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None]}, "model_type": "gemma2"}


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_a_folder_that_names_code_is_refused(name, tmp_path):
    (tmp_path / name).write_text(json.dumps(REMOTE))
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelFolderError, match="names code of its own"):
        refuse_code(tmp_path)
    with pytest.raises(ValueError, match="names code of its own"):
        GemmaEncoder.load(tmp_path, tmp_path, "")
    for kind in ("clip", "vlm"):
        with pytest.raises((RequestError, ModelFolderError), match="names code of its own"):
            load_verifier(f"{kind}:{tmp_path}", None)


@pytest.mark.parametrize("name", ["runs/typo", "../typo", "./typo", "models/best.safetensors", "~/typo"])
def test_a_mistyped_path_is_not_sent_to_the_hub(name, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **k: pytest.fail("sent"))
    with pytest.raises(ModelFolderError, match=r"neither a folder here .* a model of the hub is written hf:"):
        locate(name)
    for kind in ("clip", "vlm"):
        with pytest.raises(ModelFolderError, match="neither a folder"):
            load_verifier(f"{kind}:{name}", None)


@pytest.mark.parametrize("kind", [{}, {"sprint": True}, {"scheduler": "euler"}])
def test_a_published_folder_says_what_its_model_can_do(kind, tmp_path):
    pipeline(tmp_path, **kind)
    told = settings_of(tmp_path)
    assert told == open_system(tmp_path).settings
    assert told.native == 8 * told.multiple


def test_what_is_called_a_model_of_the_hub_is_fetched_from_there(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: tmp_path / name)
    assert locate("hf:owner/name") == tmp_path / "owner" / "name"
    for wrong in ("hf:", "hf:owner", "hf:../name", "hf:a/b/c"):
        with pytest.raises(ModelFolderError, match="it is written hf:owner/name"):
            locate(wrong)


@pytest.mark.parametrize("name", ["a" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(name):
    with pytest.raises(ModelFolderError):
        locate(name)


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ([], "Apache-2.0"),
        ([{"licence": "CC-BY-NC-4.0"}], "CC-BY-NC-4.0"),
        ([{"name": "says nothing"}], None),
        ([{"licence": "Apache-2.0"}, {"licence": "CC-BY-NC-4.0"}], None),
    ],
)
def test_a_licence_is_that_of_the_parent_or_is_not_told(parents, expected):
    recipe = next(iter(RECIPES.values()))()
    recipe = dataclasses.replace(recipe, jsonl=(), text=())
    assert _facts(recipe, {"steps": 1, "parents": parents}).get("licence") == expected


@pytest.mark.parametrize(
    ("parents", "own", "expected"),
    [
        ([], ["a"], "a"),
        ([{"data": "b; a"}], ["a", "c"], "b; a; c"),
        ([{"data": "b"}, {"data": "c"}, {}, "a name", {"data": 7}], [], "b; c"),
    ],
)
def test_data_are_those_of_the_parents_and_of_the_run(parents, own, expected):
    assert data_of(parents, own) == expected


def test_a_card_of_the_native_family_names_its_parents_data():
    recipe = dataclasses.replace(RECIPES["emoji"](), jsonl=(), text=())
    told = _facts(recipe, {"steps": 1, "parents": [{"data": "pictures of a friend"}]})["data"]
    assert told.startswith("pictures of a friend; emoji world")


def written():
    lines = [
        "# Published settings",
        "",
        "What becomes of every field of a published config, scheduler and LoRA file. *Honoured*: it decides "
        "what is computed. *Harmless*: it changes no result here. Otherwise the field must have one of the "
        "values named, and the file is refused by name if it has another. A field that is in no table is "
        "refused unless it is null, false or begins with an underscore. An autoencoder's config goes to "
        "diffusers' own class as it is; `scaling_factor` is honoured.",
        "",
        "Made by `tests/unit/test_published.py`; `DIPTYCH_WRITE_DOCS=1` writes it anew.",
    ]
    for title, fields in TABLES.items():
        lines += ["", f"## {title}", "", "| field | |", "|---|---|"]
        for name, field in sorted(fields.items()):
            values = ", ".join(f"`{json.dumps(value)}`" for value in field.only)
            lines.append(f"| `{name}` | {f'refused unless {values}' if field.only else field.fate} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_published_fields_is_in_step():
    if os.environ.get("DIPTYCH_WRITE_DOCS"):
        DOCS.write_text(written())
    assert DOCS.read_text() == written()


@pytest.mark.parametrize(
    ("public", "fields"),
    [
        (diffusers.SanaTransformer2DModel, linear.FIELDS),
        *((getattr(diffusers, name), fields) for name, fields in SCHEDULERS.items()),
        (LoraConfig, lora.FIELDS),
    ],
)
def test_every_field_of_the_public_classes_has_its_place(public, fields):
    names = set(inspect.signature(public.__init__).parameters) - {"self"}
    assert names - set(fields) == set()


@pytest.mark.parametrize("scale", [0.001, 0.5])
def test_times_are_cut_off_before_they_are_scaled(scale):
    """The scheduler counts whole times to 1000; a teacher of Sprint then sees a thousandth of them."""
    config = LinearDiTConfig(depth=1, width=32, cross_heads=1, whole_time=True, time_scale=1000 * scale)
    model, seen = LinearDiT(config), []
    model.time_in.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for sigma in (
        torch.tensor([[0.9995], [0.7004]], dtype=torch.float64),
        torch.tensor([[0.9995], [0.7004]]),
    ):
        with torch.no_grad():
            model._time(sigma, None, torch.float32)
    for features in seen:
        torch.testing.assert_close(features, sinusoid(torch.tensor([[999.0], [700.0]]) * scale))


def test_a_block_number_without_end_is_refused_before_its_names_are_made():
    weights = {**transformer().state_dict(), "transformer_blocks.999999999.attn1.to_q.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"blocks\.2\."):
        linear.from_diffusers(weights)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_scale_of_times_must_be_a_number_above_zero(value):
    values = json.loads(transformer().to_json_string())
    with pytest.raises(ValueError, match="time_scale"):
        linear.config_from_diffusers({**values, "timestep_scale": value})


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("pos_embed", torch.ones(5), "pos_embed"),
        ("pos_embed", torch.ones(1, 0, 64), "pos_embed"),
        ("x_embedder.proj.weight", torch.ones(3), "4 axes"),
        ("y_embedder.y_proj.fc1.weight", torch.ones(()), "2 axes"),
        ("blocks.0.mlp.depth_conv.conv.weight", torch.ones(()), "4 axes"),
        ("y_embedder.y_embedding", torch.ones(3, 5), "null caption"),
        ("y_embedder.y_embedding", torch.ones(24), "null caption"),
        ("t_block.1.weight", torch.ones(384, 64).to_sparse(), "no plain tensor"),
        ("t_block.1.weight", torch.ones(384, 64, device="meta"), "no plain tensor"),
        ("t_block.1.weight", torch.zeros(1).expand(384, 64), "no plain tensor"),
        ("t_block.1.weight", torch.ones(384, 64, dtype=torch.int8), "int8"),
    ],
)
def test_a_native_checkpoint_of_odd_tensors_is_refused(name, tensor, said, tmp_path):
    pipeline(tmp_path / "base")
    system = SanaSystem.load(tmp_path / "base")
    weights = {**linear.to_native(dict(system.model.state_dict())), name: tensor}
    torch.save({"state_dict": weights}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=said):
        from_checkpoint(tmp_path / "odd.pth", tmp_path / "base", 2)


def test_a_text_that_calls_itself_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "odd.pth").write_text("hello")
    with pytest.raises(ModelFolderError, match="no checkpoint"):
        read_checkpoint(tmp_path / "odd.pth")


@pytest.mark.parametrize(("solver", "whole"), [("dpm", True), ("euler", False)])
def test_a_conversion_notes_the_times_that_the_targets_scheduler_gives(solver, whole):
    for told in (True, False):
        config = LinearDiTConfig(depth=1, width=32, cross_heads=1, whole_time=told)
        notes = [f"whole_time is {told} here and {whole} there"] if told != whole else []
        assert linear.conventions_lost(config, "diffusers", solver) == notes

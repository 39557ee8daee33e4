"""LoRA files in the styles that are about, merged here and applied by peft: the same velocities, or a refusal
by name."""

import json

import diffusers
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from test_published import transformer

from diptych.models.linear_dit import LinearDiT
from diptych.models.linear_dit import convert as linear
from diptych.systems.sana.lora import STYLES, merge_adapters, read_lora, settings_of, write_lora


def adapted(patch_size=1, **changes):
    """diffusers' transformer with adapters of peft, all of it random."""
    peer = transformer(patch_size=patch_size)
    options = {"r": 4, "lora_alpha": 6, "target_modules": ["to_q", "to_k", "to_v", "to_out.0", "conv_point"]}
    config = LoraConfig(**{**options, **changes})
    peer.add_adapter(config)
    torch.manual_seed(1)
    for name, parameter in peer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return peer, config, get_peft_model_state_dict(peer)


@torch.no_grad()
def assert_alike(peer, adapters):
    plain = transformer()
    model = LinearDiT(linear.config_from_diffusers(json.loads(plain.to_json_string()))).eval()
    model.load_state_dict(linear.from_diffusers(plain.state_dict()))
    x, text = torch.randn(2, 4, 6, 6), torch.randn(2, 5, 24)
    before = model(x[:, None], torch.tensor([0.3, 0.9]), model.condition(text))[:, 0]
    merge_adapters(model, adapters)
    expected = peer(x, text, torch.tensor([300.0, 900.0])).sample
    ours = model(x[:, None], torch.tensor([0.3, 0.9]), model.condition(text))[:, 0]
    size = float(expected.abs().max())
    assert float((before - expected).abs().max()) > 1e-3 * size
    assert float((ours - expected).abs().max()) <= 1e-5 * size


ALL = ["to_q", "to_k", "to_v", "to_out.0", "proj_out", "linear", "linear_1", "linear_2", "proj"]
SCALES = [
    {},
    {"use_rslora": True},
    {"alpha_pattern": {"attn1.to_q": 12, r"transformer_blocks\.1\.attn2\.to_v": 3}},
    {"rank_pattern": {"attn1.to_q": 2}, "alpha_pattern": {"attn1.to_q": 5}},
    {"target_modules": ALL},
    {"target_modules": "all-linear"},
]


@pytest.mark.parametrize("changes", SCALES)
def test_alpha_of_diffusers_header_is_honoured(changes, tmp_path):
    peer, _, _ = adapted(**changes)
    peer.save_lora_adapter(tmp_path, weight_name="some.safetensors")
    path = tmp_path / "some.safetensors"
    assert_alike(peer, read_lora(load_file(path), settings_of(path)))
    diffusers.SanaPipeline.save_lora_weights(
        tmp_path / "pipe",
        load_file(path),
        transformer_lora_adapter_metadata=peer.peft_config["default"].to_dict(),
    )
    path = tmp_path / "pipe" / "pytorch_lora_weights.safetensors"
    assert_alike(peer, read_lora(load_file(path), settings_of(path)))


@pytest.mark.parametrize("changes", SCALES)
def test_alpha_of_pefts_own_config_is_honoured(changes, tmp_path):
    peer, config, weights = adapted(**changes)
    path = tmp_path / "adapter_model.safetensors"
    save_file({f"base_model.model.{key}": t.contiguous() for key, t in weights.items()}, path)
    config.save_pretrained(tmp_path)
    assert_alike(peer, read_lora(load_file(path), settings_of(path)))


DOTTED = ["transformer.", "base_model.model.", "base_model.model.transformer.", "diffusion_model."]


def renamed(key, style):
    if style in ("lora_unet_", "lora_transformer_"):
        name, _, side = key.rpartition(".lora_")
        side = {"A": "down", "B": "up"}[side[0]]
        return style + name.replace(".", "_") + f".lora_{side}.weight"
    if style == "lora.down":
        return "transformer." + key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")
    if style == "default":
        return "base_model.model." + key.replace(".weight", ".default.weight")
    return style + key


@pytest.mark.parametrize(
    "style",
    ["", *DOTTED, "lora_unet_", "lora_transformer_", "lora.down", "default"],
)
def test_every_style_of_keys_is_read_with_alpha_of_its_own(style):
    peer, _, weights = adapted(target_modules=ALL)
    file = {renamed(key, style): tensor for key, tensor in weights.items()}
    ends = ("lora_A.weight", "lora_A.default.weight", "lora_down.weight", "lora.down.weight")
    for key in list(file):
        for end in ends:
            if key.endswith("." + end):
                file[key.removesuffix(end) + "alpha"] = torch.tensor(6.0)
    adapters = read_lora(file)
    assert_alike(peer, adapters)
    assert "patch_embed" in adapters
    for written in STYLES:
        again = read_lora(write_lora(adapters, written))
        assert again.keys() == adapters.keys()
        assert_alike(peer, again)


def test_an_adapter_of_the_patch_embedding_is_written_as_peft_reads_it(tmp_path):
    """Kernel and all: peft takes the file that is written here."""
    peer, _, weights = adapted(target_modules=["proj"], patch_size=2)
    assert weights["patch_embed.proj.lora_A.weight"].shape == (4, 4, 2, 2)
    file = {f"transformer.{key}": tensor for key, tensor in weights.items()}
    file["transformer.patch_embed.proj.alpha"] = torch.tensor(6.0)
    written = write_lora(read_lora(file), "diffusers")
    assert {key: tensor.shape for key, tensor in written.items()} == {
        f"transformer.{key}": tensor.shape for key, tensor in weights.items()
    }
    other = transformer(patch_size=2)
    save_file(written, tmp_path / "written.safetensors")
    other.load_lora_adapter(tmp_path, weight_name="written.safetensors", prefix="transformer")
    x, text, time = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 24), torch.tensor([300.0])
    with torch.no_grad():
        expected, found = (model(x, text, time).sample for model in (peer, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


BLOCK = "transformer.transformer_blocks.0."


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({f"{BLOCK}attn1.to_q.lora_magnitude_vector": torch.ones(64)}, "DoRA"),
        ({f"{BLOCK}attn1.to_q.lora_magnitude_vector.weight": torch.ones(64)}, "DoRA"),
        ({f"{BLOCK}attn1.to_q.dora_scale": torch.ones(64)}, "DoRA"),
        ({f"{BLOCK}attn1.to_q.lora_B.bias": torch.ones(64)}, "more than matrices"),
        ({f"{BLOCK}attn1.to_q.bias": torch.ones(64)}, "more than matrices"),
        ({f"{BLOCK}ff.conv_depth.lora_A.weight": torch.ones(2, 160, 3, 3)}, "depthwise"),
        ({"lora_unet_transformer_blocks_0_ff_conv_depth.lora_up.weight": torch.ones(1)}, "depthwise"),
        ({f"{BLOCK}attn1.to_q.hada_w1_a": torch.ones(2, 2)}, "is no key of a LoRA"),
        ({f"{BLOCK}attn1.to_q.lora_A.weight": torch.ones(2, 64)}, "only half"),
        (
            {
                f"{BLOCK}attn1.to_q.lora_A.weight": torch.ones(2, 64),
                f"{BLOCK}attn1.to_q.lora_B.weight": torch.ones(64, 3),
            },
            "have no product",
        ),
        (
            {
                f"{BLOCK}attn1.to_q.lora_A.a.weight": torch.ones(2, 64),
                f"{BLOCK}attn1.to_q.lora_A.b.weight": torch.ones(2, 64),
            },
            "several adapters",
        ),
        (
            {
                f"{BLOCK}attn1.to_q.lora_A.weight": torch.ones(2, 64),
                f"{BLOCK}attn1.to_q.lora_B.weight": torch.ones(64, 2),
                f"{BLOCK}attn1.to_q.alpha": torch.tensor(torch.nan),
            },
            "no finite number",
        ),
    ],
)
def test_a_lora_that_is_no_plain_product_is_refused(file, said):
    with pytest.raises(ValueError, match=said):
        read_lora(file)


def test_depthwise_factors_are_not_written():
    with pytest.raises(ValueError, match="has no form in a LoRA file"):
        write_lora({"blocks.0.feed_forward.depthwise": (torch.ones(1, 9), torch.ones(4, 1))}, "peft")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"modules_to_save": ["proj_out"]}, "modules_to_save"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"lora_alpha": "6"}, "lora_alpha"),
        ({"from_the_future": 1}, "from_the_future is 1"),
    ],
)
def test_settings_of_a_lora_that_change_results_are_refused(changes, said, tmp_path):
    path = tmp_path / "adapter_model.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 6, **changes}))
    with pytest.raises(ValueError, match=said):
        settings_of(path)


def test_a_rank_that_is_not_that_of_the_settings_is_refused(tmp_path):
    _, config, weights = adapted()
    config.r = 8
    config.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    with pytest.raises(ValueError, match="the rank 8, its matrices have 4"):
        read_lora(load_file(path), settings_of(path))


A, B = f"{BLOCK}attn1.to_q.lora_A.weight", f"{BLOCK}attn1.to_q.lora_B.weight"
Q = {A: torch.ones(2, 64), B: torch.ones(64, 2)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({A: torch.ones(2, 64).to(torch.float8_e4m3fn)}, "float8_e4m3fn, which is not read"),
        ({A: torch.ones(2, 64, dtype=torch.int8)}, "int8, which is not read"),
        ({f"{BLOCK}attn1.to_q.alpha": torch.tensor(4 + 1j)}, "complex64, which is not read"),
        ({f"{BLOCK}attn1.to_q.alpha": torch.tensor(True)}, "bool, which is not read"),
        ({A: torch.full((2, 64), 9.0), f"{BLOCK}attn1.to_q.alpha": torch.tensor(3e38)}, None),
        ({B: torch.full((64, 2), 9.0), f"{BLOCK}attn1.to_q.alpha": torch.tensor(3e38)}, "too large"),
        ({A.replace("to_q", "to_k"): torch.ones(2, 32), B.replace("to_q", "to_k"): torch.ones(64, 2)}, "one"),
        ({A.replace("to_q", "to_k"): torch.ones(2, 64), B.replace("to_q", "to_k"): torch.ones(32, 2)}, "one"),
        ({A: torch.ones(2, 16, 2, 2), B: torch.ones(64, 2, 1, 1)}, "not 1x1"),
        ({A.replace("s.0.", "s.00."): torch.ones(2, 64)}, "is no key"),
    ],
)
def test_types_sizes_and_kernels_that_are_no_plain_product_are_refused(change, said):
    if said is None:
        assert read_lora({**Q, **change})
        return
    with pytest.raises(ValueError, match=said):
        read_lora({**Q, **change})

"""Causal video autoencoders of diffusers as image spaces, by folder."""

import json
from pathlib import Path

import diffusers
import pytest
import torch

from diptych.files.folder import ModelFolderError
from diptych.spaces import factor_of, load_space, save_space
from diptych.spaces.causal import CausalSpace

WAN = {
    "base_dim": 3,
    "z_dim": 4,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}
LTX = {
    "latent_channels": 8,
    "block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "layers_per_block": [1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1],
    "down_block_types": ["LTXVideoDownBlock3D"] * 2,
    "spatio_temporal_scaling": [True, True],
    "decoder_spatio_temporal_scaling": [True, True],
    "decoder_inject_noise": [False, False, False],
    "downsample_type": ["conv", "conv"],
    "upsample_residual": [False, False],
    "upsample_factor": [1, 1],
    "patch_size": 2,
    "scaling_factor": 0.5,
    "encoder_causal": True,
    "decoder_causal": True,
}
# what one latent stands for: px of a side, and frames
KINDS = {"AutoencoderKLWan": (WAN, 4, 4), "AutoencoderKLLTXVideo": (LTX, 8, 4)}


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = getattr(diffusers, request.param)(**KINDS[request.param][0])
    if request.param != "AutoencoderKLWan":
        model.latents_mean.copy_(torch.linspace(-1, 1, 8))
        model.latents_std.copy_(torch.linspace(0.5, 2, 8))
    made = tmp_path_factory.mktemp("spaces") / request.param
    model.save_pretrained(made)
    return made


def shades(frames: int, height: int = 16, width: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, frames, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("frames", [1, 5])
def test_clips_are_coded_as_diffusers_codes_them(folder, frames):
    space = load_space(folder)
    assert isinstance(space, CausalSpace)
    config, factor, time = KINDS[folder.name]
    assert (space.factor, space.time) == (factor, time) == (factor_of(folder), time)
    pixels = shades(frames)
    target = space.encode(pixels)
    assert target.shape[1:] == space.shape(24, 16, frames)
    assert target.dtype == torch.float32
    model = getattr(diffusers, folder.name).from_pretrained(folder)
    with torch.no_grad():
        raw = model.encode((2 * (pixels / 255) - 1).transpose(1, 2)).latent_dist.mode()
        if folder.name == "AutoencoderKLWan":
            mean, deviation = (torch.tensor(config[name]) for name in ("latents_mean", "latents_std"))
        else:
            mean, deviation = model.latents_mean, model.latents_std / 0.5
        scaled = (raw - mean.view(-1, 1, 1, 1)) / deviation.view(-1, 1, 1, 1)
        drawn = model.decode(raw).sample.clamp(-1, 1)
    torch.testing.assert_close(target, scaled.transpose(1, 2), rtol=1e-5, atol=1e-5)
    decoded = space.decode(target)
    assert decoded.shape == pixels.shape
    expected = ((drawn.transpose(1, 2) + 1) * 127.5).round()
    assert float((decoded.float() - expected).abs().max()) <= 1
    # the first frame knows nothing of what comes later
    if frames > 1:
        torch.testing.assert_close(target[:, :1], space.encode(pixels[:, :1]), rtol=1e-4, atol=1e-4)


def test_a_space_is_written_and_named_by_what_it_computes(folder, tmp_path):
    space = load_space(folder)
    save_space(space, tmp_path / "copy")
    again = load_space(tmp_path / "copy")
    assert again.identity() == space.identity()
    assert torch.equal(again.encode(shades(5)), space.encode(shades(5)))
    next(again.autoencoder.parameters()).data.add_(1.0)
    assert again.identity() != space.identity()


def test_clips_that_it_cannot_hold_are_refused(folder):
    space = load_space(folder)
    with pytest.raises(ValueError, match="a multiple of 4 frames, and one more, got 4"):
        space.encode(shades(4))
    with pytest.raises(ValueError, match="sides must be multiples of"):
        space.encode(shades(1, height=15))
    assert space.round_size(23, 17) == (24, 16)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("z_dim", 0, "0 channels"),
        ("z_dim", "many", "z_dim"),
        ("temperal_downsample", [True], "must be true twice"),
        ("temperal_downsample", [True, True] + [False] * 40, "42 stages"),
        ("temperal_downsample", 3, "temperal_downsample"),
        ("patch_size", 1000, "patches of 1000 px"),
        ("base_dim", 64, "encoder"),
    ],
)
def test_a_config_that_is_none_is_refused_before_memory_is_taken(tmp_path, field, value, message):
    diffusers.AutoencoderKLWan(**WAN).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises((ValueError, ModelFolderError), match=message):
        load_space(tmp_path)

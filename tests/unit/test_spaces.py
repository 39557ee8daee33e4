"""Image spaces on real weights and real photographs."""

import pytest
import torch
from golden_files import load, write

from diptych.spaces import LatentSpace, PixelSpace, factor_of, load_space, save_space, tiny_space


@pytest.fixture(scope="module")
def photograph():
    return load("tiny_autoencoders/photograph")


@pytest.fixture(scope="module")
def flux2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux2")
    return tiny_space(
        write("tiny_autoencoders/taef2_encoder", folder / "encoder.safetensors"),
        write("tiny_autoencoders/taef2_decoder", folder / "decoder.safetensors"),
    )


def as_bytes(picture):
    """One frame a row."""
    return (picture * 255).round().to(torch.uint8)[:, None]


@torch.no_grad()
def test_tiny_latents_and_decoding_are_the_published_ones(flux2, photograph):
    latents = flux2.autoencoder.encode(photograph["picture"] * 2 - 1)
    torch.testing.assert_close(latents, photograph["taef2_latents"], rtol=0, atol=2e-4)
    decoded = (flux2.autoencoder.decode(photograph["taef2_latents"]) + 1) / 2
    torch.testing.assert_close(
        decoded.clamp(0, 1), photograph["taef2_decoded"].clamp(0, 1), rtol=0, atol=2e-4
    )


@torch.no_grad()
def test_deep_tiny_encoder_has_the_layout_of_dc_ae(photograph, tmp_path):
    space = tiny_space(write("tiny_autoencoders/taesana_encoder", tmp_path / "encoder.safetensors"))
    assert space.shape(160, 128) == (1, 32, 4, 5)
    latents = space.autoencoder.encode(photograph["picture"] * 2 - 1)
    torch.testing.assert_close(latents, photograph["taesana_latents"], rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="without a decoder"):
        space.decode(latents[:, None])


def test_a_photograph_comes_back(flux2, photograph):
    picture = as_bytes(photograph["picture"])
    back = flux2.decode(flux2.encode(picture))
    error = (back.float() - picture.float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 20


class Shuffle(torch.nn.Module):
    """A lossless autoencoder without reach beyond its own latent: tiles must give exactly what the whole
    picture gives."""

    factor, channels = 4, 48

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def encode(self, x):
        return torch.nn.functional.pixel_unshuffle(x, 4) * self.one

    def decode(self, latents):
        return torch.nn.functional.pixel_shuffle(latents, 4) * self.one


@pytest.mark.parametrize("size", [(128, 160), (160, 128), (40, 200), (36, 36)])
def test_tiles_lie_where_they_should(size):
    picture = torch.randint(0, 256, (2, 3, 3, *size), dtype=torch.uint8)
    whole, tiled = LatentSpace(Shuffle(), tile=1024), LatentSpace(Shuffle(), tile=32)
    torch.testing.assert_close(tiled.encode(picture), whole.encode(picture))
    assert torch.equal(tiled.decode(whole.encode(picture)), picture)


def test_a_photograph_comes_back_through_tiles(flux2, photograph):
    picture = as_bytes(photograph["picture"])
    # the group norms of this autoencoder see one tile alone, so tiles cannot equal the whole
    tiled = LatentSpace(flux2.autoencoder, tile=96)
    error = (tiled.decode(tiled.encode(picture)).float() - picture.float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 18


def test_scale_is_applied_once_each_way(flux2, photograph):
    picture = as_bytes(photograph["picture"])
    scaled = LatentSpace(flux2.autoencoder, 0.41407)
    torch.testing.assert_close(scaled.encode(picture), flux2.encode(picture) * 0.41407)
    back, again = flux2.decode(flux2.encode(picture)).int(), scaled.decode(scaled.encode(picture)).int()
    assert int((back - again).abs().max()) <= 1
    assert scaled.identity() != flux2.identity()


def test_a_saved_space_is_the_same(flux2, tmp_path):
    save_space(flux2, tmp_path)
    assert load_space(tmp_path).identity() == flux2.identity()
    assert factor_of(tmp_path) == flux2.factor


def test_sides_that_the_latents_cannot_have_are_refused(flux2):
    with pytest.raises(ValueError, match=r"multiples of 8 px, got 30x16"):
        flux2.encode(torch.zeros(1, 1, 3, 16, 30, dtype=torch.uint8))
    assert flux2.round_size(101, 3) == (104, 8)


def test_pixels_come_back_to_the_bit():
    space = PixelSpace(16)
    clip = torch.randint(0, 256, (2, 3, *space.shape(32, 16)[1:]), dtype=torch.uint8)
    assert torch.equal(space.decode(space.encode(clip)), clip)
    assert space.shape(32, 16, 3) == (3, 3, 16, 32)
    assert space.identity() == PixelSpace(16).identity()
    with pytest.raises(ValueError, match=r"multiples of 16 px, got 32x24"):
        space.encode(torch.zeros(1, 1, 3, 24, 32, dtype=torch.uint8))


@pytest.mark.parametrize("kind", ["AutoencoderDC", "AutoencoderTiny"])
def test_autoencoders_of_diffusers_load_by_folder(kind, tmp_path):
    import diffusers

    torch.manual_seed(0)
    if kind == "AutoencoderDC":
        model = diffusers.AutoencoderDC(**TINY_DC_AE)
    else:
        model = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(16, 16),
            decoder_block_out_channels=(16, 16),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    model.save_pretrained(tmp_path, safe_serialization=True)
    space = load_space(tmp_path)
    assert factor_of(tmp_path) == space.factor
    picture = torch.randint(0, 256, (1, 1, 3, 32, 64), dtype=torch.uint8)
    latents = space.encode(picture)
    assert latents.shape == (1, *space.shape(64, 32))
    assert space.decode(latents).shape == picture.shape
    with torch.no_grad():
        expected = model.eval().encode(picture[:, 0].float() / 127.5 - 1)
    raw = expected.latent if kind == "AutoencoderDC" else expected.latents
    torch.testing.assert_close(latents[:, 0], raw * model.config.scaling_factor)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_space(tmp_path)
    for text, message in (("{", "not JSON"), ("[]", "Expected `object`")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_space(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(ValueError, match="'AutoencoderKL' is none of"):
        load_space(tmp_path)


TINY_DC_AE = {
    "in_channels": 3,
    "latent_channels": 4,
    "attention_head_dim": 2,
    "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 8),
    "decoder_block_out_channels": (8, 8),
    "encoder_qkv_multiscales": ((), (5,)),
    "decoder_qkv_multiscales": ((), (5,)),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "scaling_factor": 0.41407,
}

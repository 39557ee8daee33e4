"""Strangers' picture files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from diptych.data.pictures import PictureError, edges, open_picture


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_small_file_that_decodes_to_a_huge_picture_is_refused():
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = zlib.compress(b"\0" * (13_000 // 8 + 1) * 13_000, 9)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 13_000, 13_000, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )
    assert len(bomb) < 30_000
    with pytest.raises(PictureError, match="13000x13000"):
        open_picture(bomb)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pixels = open_picture(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert pixels.shape == (8, 8, 3)
    assert tuple(pixels[0, 0]) == (255, 0, 0)


def test_sixteen_bit_gray_is_scaled_and_not_clipped():
    values = np.array([[0, 32768, 65535]], dtype=np.uint16)
    pixels = open_picture(saved(Image.fromarray(values)))
    assert pixels[0, :, 0].tolist() == [0, 127, 255]


def test_cmyk_and_transparency():
    assert open_picture(saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"))[0, 0, 0] > 200
    clear = open_picture(saved(Image.new("RGBA", (4, 4), (0, 0, 0, 0))))
    assert (clear == 255).all()


def test_missing_broken_and_other_files(tmp_path):
    with pytest.raises(PictureError, match="no such file"):
        open_picture(tmp_path / "none.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    with pytest.raises(PictureError, match=r"notes\.txt: not a readable picture"):
        open_picture(tmp_path / "notes.txt")
    whole = saved(Image.effect_noise((64, 64), 50))
    with pytest.raises(PictureError, match="not a readable picture"):
        open_picture(whole[: len(whole) // 2])


def test_edges_are_the_published_operator_in_both_directions():
    """Sobel's weights 1, 2, 1, before they are scaled to the strongest, which is the corner's inner side."""
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[4:, 4:] = 200
    found = edges(pixels)[..., 0].astype(int)
    assert found[4, 4] == found.max() == 255
    straight, inner, outer = 4.0, 3 * 2**0.5, 2**0.5
    assert found[6, 3:5].tolist() == found[3:5, 6].tolist() == [round(255 * straight / inner)] * 2
    assert found[3, 3] == round(255 * outer / inner)
    assert found[:3].max() == 0
    assert found[6, 6] == 0
    assert (edges(pixels) == edges(pixels)[..., :1]).all()
    assert (edges(pixels.transpose(1, 0, 2))[..., 0] == found.T).all()


def test_twelve_bits_of_gray_are_scaled_by_their_own_top(tmp_path):
    """A TIFF by hand, as Pillow writes none: two values in three bytes."""
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    ifd = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in entries)
    data = bytes([0xFF, 0xF8, 0x00, 0])
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    (tmp_path / "12.tif").write_bytes(head + data + struct.pack("<H", len(entries)) + ifd + bytes(4))
    assert open_picture(tmp_path / "12.tif")[0, :, 0].tolist() == [255, 127]

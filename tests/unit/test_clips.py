"""Strangers' clips: a bounded number of frames with their times, or one sentence."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from diptych.data import clips
from diptych.data.clips import is_clip, open_clip
from diptych.data.pictures import PictureError
from diptych.planning import opened
from diptych.request import FPS, RequestError

RATE, SIDE = 10, 64


def frame(number: int, count: int) -> np.ndarray:
    """Black, with a white bar at the left as wide as the clip has gone, and a red corner at the top."""
    pixels = np.zeros((SIDE // 2, SIDE, 3), np.uint8)
    pixels[:, : (number + 1) * SIDE // count] = 255
    pixels[:8, -8:] = (255, 0, 0)
    return pixels


def write(path: Path, times: list[float], codec: str = "libx264", turned: int = 0) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = SIDE, SIDE // 2, "yuv444p" if turned else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, at in enumerate(times):
            shown = av.VideoFrame.from_ndarray(frame(number, len(times)), format="rgb24")
            shown.pts, shown.time_base = round(at * 1000), Fraction(1, 1000)
            out.mux(stream.encode(shown))
        out.mux(stream.encode())
    if turned:
        turn(path, turned)
    return path


def turn(path: Path, degrees: int) -> None:
    """Write the matrix of a track by which players turn it with the clock."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    values = (cosine * 2**16, sine * 2**16, 0, -sine * 2**16, cosine * 2**16, 0, 0, 0, 2**30)
    data[at : at + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(data)


def even(count: int) -> list[float]:
    return [number / RATE for number in range(count)]


def whites(pixels: np.ndarray) -> int:
    """Columns of the bar."""
    return int((pixels[-4].min(1) > 128).sum())


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264")]
)
def test_frames_are_spread_over_a_clip_with_their_times(tmp_path, name, codec):
    clip = open_clip(write(tmp_path / name, even(21), codec), 5)
    assert clip.times == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], abs=0.11)
    assert clip.frames.shape == (5, SIDE // 2, SIDE, 3)
    bars = [whites(pixels) for pixels in clip.frames]
    expected = [round((10 * at + 1) * SIDE / 21) for at in clip.times]
    assert bars == pytest.approx(expected, abs=3)


def test_a_short_clip_has_all_its_frames(tmp_path):
    assert open_clip(write(tmp_path / "a.mp4", even(3)), 8).times == pytest.approx([0.0, 0.1, 0.2])


def test_frames_of_a_variable_rate_are_spread_in_time_and_not_by_number(tmp_path):
    # a still for ten seconds, and then a hundred frames in one
    times = [0.0, 2.0, 4.0, 6.0, 8.0, *(10 + n / 100 for n in range(100))]
    clip = open_clip(write(tmp_path / "a.mp4", times), 6)
    assert clip.times == pytest.approx([0.0, 2.0, 4.0, 6.0, 8.0, 10.99], abs=0.6)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_clip_is_turned_as_its_file_says(tmp_path, degrees):
    clip = open_clip(write(tmp_path / "a.mp4", even(4), turned=degrees), 4)
    assert clip.frames.shape[1:3] == ((SIDE, SIDE // 2) if degrees != 180 else (SIDE // 2, SIDE))
    # the red corner at the top right, turned with the clock
    row, column = {90: (-4, -4), 180: (-4, 3), 270: (3, 3)}[degrees]
    red = clip.frames[0][row, column].astype(int)
    assert red[0] > 150
    assert red[1] < 100


def test_a_transparent_animation_is_on_white(tmp_path):
    shown = [Image.new("RGBA", (20, 10), (0, 0, 0, 0)) for _ in range(3)]
    for number, image in enumerate(shown):
        image.paste((200, 0, 0, 255), (number * 4, 0, number * 4 + 4, 10))
    path = tmp_path / "a.gif"
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=500, loop=0, disposal=2)
    assert is_clip(path)
    clip = open_clip(path, 8)
    assert clip.times == pytest.approx([0.0, 0.5, 1.0])
    assert [tuple(pixels[5, -1]) for pixels in clip.frames] == [(255, 255, 255)] * 3
    assert [int(pixels[5, n * 4 + 1, 0]) for n, pixels in enumerate(clip.frames)] == pytest.approx(
        [200] * 3, abs=8
    )


def test_a_still_gif_is_a_picture(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    assert not is_clip(tmp_path / "a.gif")


def sound(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        for number in range(8):
            silent = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silent.rate, silent.pts = 8000, number * 1024
            out.mux(stream.encode(silent))
        out.mux(stream.encode())
    return path


def cut(path: Path) -> Path:
    data = write(path, even(20)).read_bytes()
    path.write_bytes(data[: len(data) // 3])
    return path


def garbled(path: Path) -> Path:
    data = bytearray(write(path, even(20)).read_bytes())
    at = data.index(b"mdat")
    # behind what the encoder says of itself
    data[at + 720 : at + 1000] = bytes(280)
    path.write_bytes(data)
    return path


def playlist(path: Path) -> Path:
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sound, "holds sound alone"),
        (cut, "not a readable clip"),
        (garbled, "not a readable clip"),
        (playlist, "none of MP4, WebM, Matroska, GIF"),
        (folder, "is a folder, and a file is needed"),
        (lambda path: path, "no such file"),
    ],
)
def test_what_is_no_clip_is_named_in_one_sentence(tmp_path, make, message):
    with pytest.raises(PictureError, match=message) as told:
        open_clip(make(tmp_path / "a.mp4"), 4)
    assert str(tmp_path / "a.mp4") in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_SECONDS", 1.0, "lasts longer than 1 s"),
        ("MAX_FRAMES", 10, "more than 10 frames"),
        ("MAX_DECODED", SIDE * SIDE, "megapixels in all"),
        ("MAX_PIXELS", 1000, "frames are 64x32 px"),
        ("MAX_SIDE", 40, "frames are 64x32 px"),
        ("MAX_BYTES", 100, "bytes, more than the 100"),
        ("PATIENCE", -1.0, "to decode: cut it shorter"),
    ],
)
def test_a_clip_is_read_within_limits(tmp_path, monkeypatch, limit, value, message):
    monkeypatch.setattr(clips, limit, value)
    with pytest.raises(PictureError, match=message):
        open_clip(write(tmp_path / "a.mp4", even(21)), 4)


def test_few_frames_are_held_at_once_however_many_there_are(monkeypatch):
    held = most = 0

    class Shown:
        def __init__(self):
            nonlocal held, most
            held += 1
            most = max(most, held)

        def __del__(self):
            nonlocal held
            held -= 1

    monkeypatch.setattr(clips, "_pixels", lambda frame: Shown())
    found = clips._sampled(iter([(number / 30, None) for number in range(20_000)]), 16)
    assert len(found) == 16
    assert most <= 34
    assert np.diff([at for at, _ in found]).max() < 2 * 20_000 / 30 / 15


def test_of_frames_at_one_time_one_is_kept(monkeypatch):
    """A damaged file may give its frames any times, and the same to all of them."""
    shown: list[object] = []
    monkeypatch.setattr(clips, "_pixels", shown.append)
    assert len(clips._sampled(iter([(0.0, None)] * 1000), 4)) == len(shown) == 1


@pytest.mark.parametrize("times", [[None, None, None], [5.0, None, None]])
def test_a_frame_that_has_no_time_follows_the_one_before_it(times):
    frames = [SimpleNamespace(time=at, width=4, height=4, is_corrupt=False) for at in times]
    codec = SimpleNamespace(width=4, height=4)
    container = SimpleNamespace(
        streams=SimpleNamespace(video=[SimpleNamespace(codec_context=codec)]),
        demux=lambda _: [SimpleNamespace(decode=lambda: frames)],
    )
    found = [at for at, _ in clips._frames(container, Path("a.mp4"))]
    assert found == pytest.approx([0.0, 1 / FPS, 2 / FPS])


def test_a_gif_that_claims_to_be_huge_is_refused_in_one_sentence(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.gif")
    data = bytearray((tmp_path / "a.gif").read_bytes())
    data[6:10] = b"\xff" * 4
    (tmp_path / "a.gif").write_bytes(data)
    with pytest.raises(PictureError, match="too large to decode"):
        opened(tmp_path / "a.gif", 4)


def test_where_pyav_is_absent_the_extra_is_named(tmp_path):
    path = write(tmp_path / "a.mp4", even(3))
    code = (
        "import sys; sys.modules['av'] = None\n"
        "from pathlib import Path\n"
        "from diptych.data.clips import open_clip\n"
        f"open_clip(Path({str(path)!r}), 4)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert "pip install 'diptych[video]'" in told


def test_a_model_of_pictures_alone_is_given_no_clip(tmp_path):
    path = write(tmp_path / "a.mp4", even(3))
    with pytest.raises(RequestError, match="is a clip by its name, and a picture is needed here"):
        opened(path)
    assert len(opened(path, 2).frames) == 2

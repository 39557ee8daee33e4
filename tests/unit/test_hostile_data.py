"""What strangers' pictures and lines may be: nothing but our own errors, and one bad line ends nothing."""

import io
import json
import os
import struct
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_pictures_data import as_png, picture, write

from diptych.contracts import BadSample, Sample, Turn
from diptych.data import foreign
from diptych.data.captioned.buckets import Bucket, fit
from diptych.data.conversations.forms import FORMS
from diptych.data.conversations.loader import LONGEST, DocumentDataset, LoaderConfig
from diptych.data.conversations.readers import JsonlSource, TextSource, within
from diptych.data.conversations.template import Template
from diptych.data.mixture import Mixture
from diptych.data.pictures import MAX_BYTES, PictureError, open_picture
from diptych.data.prompts import read_prompts

# pictures


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_six_formats_are_read(kind):
    assert open_picture(saved(picture(), kind)).shape == (24, 32, 3)


@pytest.mark.filterwarnings("ignore:IM image format is deprecated")
@pytest.mark.parametrize(
    "kind", ["EPS", "PDF", "PPM", "IM", "DDS", "ICO", "PCX", "SGI", "TGA", "JPEG2000", "AVIF"]
)
def test_no_other_format_is_opened(kind, tmp_path):
    try:
        data = saved(picture(), kind)
    except (OSError, KeyError):
        pytest.fail(f"Pillow cannot write {kind}, so this says nothing")
    with pytest.raises(PictureError, match="not a readable picture"):
        open_picture(data)
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(PictureError, match=r"a\.png: not a readable picture"):
        open_picture(tmp_path / "a.png")


def strip_png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = zlib.compress((b"\0" + b"\0" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(30_000_000, 1), (1, 30_000_000)])
def test_a_strip_of_few_pixels_and_a_huge_side_is_refused(width, height):
    with pytest.raises(PictureError, match=f"{width}x{height} px"):
        open_picture(strip_png(width, height))


def test_a_strip_is_cut_before_it_is_resized():
    strip = np.zeros((1, 32_000, 3), dtype=np.uint8)
    strip[:, 15_990:16_010] = 255
    started = time.process_time()
    assert fit(strip, Bucket(1024, 512)).shape == (512, 1024, 3)
    assert fit(strip.transpose(1, 0, 2), Bucket(64, 32)).min() == 255
    assert time.process_time() - started < 5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_turn_that_exif_tells_is_honoured(orientation, kind):
    """Stored so that turned back it shows red in the upper left corner and is wide."""
    shown = np.zeros((32, 64, 3), dtype=np.uint8)
    shown[:16, :16] = (255, 0, 0)
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](shown)))
    options = {"exif": exif} | ({"quality": 95} if kind in ("JPEG", "WEBP") else {})
    pixels = open_picture(saved(stored, kind, **options)).astype(int)
    assert pixels.shape == (32, 64, 3)
    assert np.abs(pixels - shown).mean() < 8


def test_damaged_exif_leaves_a_whole_picture_as_it_is_stored():
    assert open_picture(saved(picture(), "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")).shape == (24, 32, 3)


def gray(values, **tags):
    return saved(Image.fromarray(values), "TIFF", tiffinfo=tags.get("tags", {}))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0.5, 1.0]], dtype=np.float32), [0, 127, 255]),
        (np.array([[-0.1, 0.5, 1.02]], dtype=np.float32), [0, 127, 255]),
        (np.array([[0, 128, 255]], dtype=np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], dtype=np.int32), [0, 128, 255]),
        (np.array([[0, 32768, 65535]], dtype=np.int32), [0, 127, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32), [0, 127, 255]),
        (np.array([[0, 200, 65535]], dtype=np.uint16), [0, 0, 255]),
        # a dark one stays dark: 16 bits are not taken for 8 where all values are small
        (np.array([[0, 100, 200]], dtype=np.uint16), [0, 0, 0]),
    ],
)
def test_float_and_wide_pictures_are_read_right(values, expected):
    assert open_picture(gray(values))[0, :, 0].tolist() == expected


def test_a_tiff_whose_zero_is_white_is_read_so():
    data = bytearray(gray(np.array([[0, 65535]], dtype=np.uint16)))
    at = data.index(struct.pack("<HHI", 262, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", 0)
    assert open_picture(bytes(data))[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_a_float_picture_without_range_is_refused(value):
    with pytest.raises(PictureError, match="picture: "):
        open_picture(gray(np.array([[0, value]], dtype=np.float32)))


def sparse(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_pipes_devices_folders_and_giants_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    giant = sparse(tmp_path / "giant.png", 50 * 2**30)
    for path, message in (
        (tmp_path / "pipe.png", "a pipe, a device"),
        ("/dev/zero", "a pipe, a device"),
        (tmp_path, "is a folder"),
        (giant, f"more than the {MAX_BYTES:,}"),
        (tmp_path / ("x" * 5000), "cannot be opened"),
        ("a\0b.png", "cannot be opened"),
        ("a\ud800.png", "cannot be opened"),
        (tmp_path / "none.png", "no such file"),
        (giant / "below.png", "no such file"),
    ):
        started = time.process_time()
        with pytest.raises(PictureError, match=message):
            open_picture(path)
        assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "error", [struct.error("x"), MemoryError(), TypeError("x"), KeyError("x"), RecursionError()]
)
def test_whatever_a_decoder_raises_is_a_picture_error(error, monkeypatch):
    def broken(*_):
        raise error

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", broken)
    with pytest.raises(PictureError, match="not a readable picture"):
        open_picture(as_png(picture()))


KINDS = {kind: saved(picture(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")}


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_fuzzed_pictures_open_or_are_named(kind, changes, cut):
    data = bytearray(KINDS[kind])
    for place, value in changes:
        data[int(place * len(data))] = value
    # anything but a PictureError fails
    with suppress(PictureError):
        pixels = open_picture(bytes(data[: max(1, int((0.2 + cut) * len(data)))]))
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


# lines


def test_lines_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\u2028still one\x0c\x85\r\n\n  \nlast".encode())
    found = [(line.number, line.text.decode()) for line in foreign.lines(path)]
    assert found == [(1, "one\u2028still one\x0c\x85\r\n"), (4, "last")]
    assert read_prompts(path, 9) == ["one\u2028still one", "last"]
    # what is blank in another script only, and the mark of Windows editors alone
    path.write_bytes("\ufeff\none\n\x1c\n\u3000\n".encode())
    assert read_prompts(path, 9) == ["one"]


@given(st.binary(max_size=60), st.integers(1, 20))
@example(b"\xef\xbb\xbf", 3)
@example(b"\xef\xbb\xbf \na", 20)
@settings(max_examples=100, deadline=None)
def test_lines_are_those_of_the_file(tmp_path_factory, data, limit):
    path = tmp_path_factory.getbasetemp() / "lines"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign, "MAX_LINE", limit)
        found = list(foreign.lines(path))
    for line in found:
        whole = data[line.offset : line.offset + line.size]
        assert whole.count(b"\n") <= 1
        assert line.number == data[: line.offset].count(b"\n") + 1
        assert (line.text is None) == (len(whole) > limit)
    kept = b"".join(data[line.offset : line.offset + line.size] for line in found)
    # a first line of nothing but the mark of Windows editors is blank, and passed over with it
    told = data if found and found[0].offset == 0 else data.removeprefix(b"\xef\xbb\xbf")
    assert kept.translate(None, b" \t\r\n\x0b\x0c") == told.translate(None, b" \t\r\n\x0b\x0c")


def test_a_line_longer_than_the_limit_is_passed_over_and_a_hopeless_file_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "MAX_LINE", 100)
    monkeypatch.setattr(foreign, "HOPELESS", 1000)
    path = tmp_path / "a.txt"
    path.write_bytes(b"a\n" + b"x" * 500 + b"\nb\n")
    assert [(line.number, line.text) for line in foreign.lines(path)] == [(1, b"a\n"), (2, None), (3, b"b\n")]
    with pytest.raises(ValueError, match=r"giant:1: no line ends within 1,000 bytes"):
        list(foreign.lines(sparse(tmp_path / "giant", 50 * 2**30)))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="a pipe"):
        list(foreign.lines(tmp_path / "pipe"))


def test_no_more_prompts_are_read_than_are_asked_for(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "one"}\n{"text": "two"}\nno JSON at all\n')
    assert read_prompts(tmp_path / "a.jsonl", 2) == ["one", "two"]
    with pytest.raises(ValueError, match=r"a\.jsonl:3: not JSON"):
        read_prompts(tmp_path / "a.jsonl", 3)


# conversations

GOOD = {"conversations": [{"from": "human", "value": "a cat"}, {"from": "gpt", "value": "a cat"}]}
DRAWN = {"conversations": [{"from": "human", "value": "a cat"}, {"from": "gpt", "value": "<image>"}]}
BAD_LINES = [
    json.dumps({**DRAWN, "image": None}),
    json.dumps({**DRAWN, "image": 5}),
    json.dumps({**DRAWN, "image": [5]}),
    json.dumps({**DRAWN, "image": [[]]}),
    json.dumps({**DRAWN, "image": {"a": 1}}),
    json.dumps({**DRAWN, "image": "a\0b.png"}),
    json.dumps({**DRAWN, "image": "x" * 5000}),
    json.dumps({**DRAWN, "image": "../a.png"}),
    json.dumps({**DRAWN, "image": "/etc/passwd"}),
    json.dumps({**DRAWN, "image": "loop"}),
    json.dumps({**DRAWN, "image": "broken.png"}),
    json.dumps({**DRAWN, "image": "."}),
    json.dumps({**DRAWN, "image": "pipe.png"}),
    json.dumps({**DRAWN, "image": ["a.png"] * 2}),
    json.dumps({"conversations": [{"from": [], "value": "x"}]}),
    json.dumps({"conversations": [{"from": {}, "value": "x"}]}),
    json.dumps({"conversations": [{"from": "gpt", "value": 5}]}),
    json.dumps({"conversations": [{"from": "gpt", "value": "x" * 200_000}]}),
    json.dumps({"conversations": [{"from": "gpt", "value": "<image>" * 100}], "image": ["a.png"] * 100}),
    json.dumps({"conversations": {"from": "gpt"}}),
    json.dumps({"conversations": ["x"]}),
    '{"conversations": [{"from": "gpt", "value": "\\ud800"}]}',
    "[" * 100_000,
    '{"conversations": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "null",
    "5",
    '"x"',
    "[NaN]",
    "\0\0\0",
    "{" * 20,
    "\udcff",
]


def spoilt_media(folder):
    """What the bad lines name."""
    write(folder, "a.png", picture())
    (folder / "broken.png").write_bytes(as_png(picture())[:200])
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe.png")
    return folder


@pytest.fixture
def media(tmp_path):
    return spoilt_media(tmp_path)


def jsonl(folder, *rows):
    path = folder / "own.jsonl"
    path.write_bytes("\n".join(rows).encode(errors="surrogateescape") + b"\n")
    return JsonlSource(path, seed=0, sizes=within(8, 32))


@pytest.mark.parametrize("number", range(len(BAD_LINES)))
def test_a_bad_line_is_a_bad_sample_with_file_and_line(media, number):
    source = jsonl(media, json.dumps(GOOD), BAD_LINES[number], json.dumps(GOOD))
    with pytest.raises(BadSample, match=r"own\.jsonl:2: ") as error:
        source.read(1)
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()
    assert source.read(2).turns[0].parts == ("a cat",)


def test_a_line_with_a_line_separator_of_unicode_is_one_line(tmp_path):
    row = json.dumps({"conversations": [{"from": "gpt", "value": "a\u2028b\x85c"}]}, ensure_ascii=False)
    source = jsonl(tmp_path, row)
    assert len(source) == 1
    assert source.read(0).turns[0].parts == ("a\u2028b\x85c",)


def test_a_line_too_long_is_a_bad_sample_and_not_read(tmp_path, monkeypatch):
    source = jsonl(tmp_path, json.dumps(GOOD), json.dumps({**GOOD, "more": "x" * 2**24}))
    monkeypatch.setattr(
        "diptych.data.conversations.readers.read_bytes", lambda *_: pytest.fail("it was read")
    )
    with pytest.raises(BadSample, match=r"own\.jsonl:2: a line of 16,777,"):
        source.read(1)


def test_a_file_that_went_is_a_bad_sample(tmp_path):
    source = jsonl(tmp_path, json.dumps(GOOD))
    source.path.unlink()
    with pytest.raises(BadSample, match="cannot be read any more"):
        source.read(0)


def test_steps_go_on_past_every_bad_line_and_again_after_a_resume(media, tokenizer):
    source = jsonl(media, *BAD_LINES, *[json.dumps(GOOD)] * 9)
    config = LoaderConfig(documents_per_step=10, workers=0)

    def steps(start):
        data = DocumentDataset(
            Mixture({"own": source}, {"own": 1.0}, 0), Template(FORMS["marks"], tokenizer, 8), config
        )
        return list(data.steps(start, 4))

    unbroken = steps(0)
    assert len({reason for step in unbroken for reason in step.bad}) == len(BAD_LINES)
    assert [step.bad for step in steps(2)] == [step.bad for step in unbroken[2:]]
    assert all(len(step.batches) == 1 for step in unbroken)


def test_texts_beyond_a_sane_length_are_named(tmp_path, tokenizer):
    class Long:
        name = "long"

        def draw(self, number):
            return Sample((Turn("assistant", ("cat " * 20_000,)),), "text", "long.txt, paragraph 7")

    config = LoaderConfig(documents_per_step=1, row_tokens=64, workers=0)
    data = DocumentDataset(
        Mixture({"long": Long()}, {"long": 1.0}, 0), Template(FORMS["marks"], tokenizer, 8), config
    )[0]
    assert data.bad[0].startswith("long.txt, paragraph 7: ")
    assert f"at most {LONGEST * 64:,}" in data.bad[0]
    (tmp_path / "book.txt").write_text("x" * 200_000)
    with pytest.raises(BadSample, match=r"book\.txt, paragraph 1: 200,000 characters"):
        TextSource(tmp_path / "book.txt", seed=0).draw(0)
    with pytest.raises(ValueError, match="more than the"):
        TextSource(sparse(tmp_path / "giant.txt", 50 * 2**30), seed=0)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["<image>", "gpt"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["conversations", "from", "value", "image", "x"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(json_values, json_values), max_size=3), json_values, st.binary(max_size=30))
@settings(max_examples=200, deadline=None)
def test_fuzzed_lines_are_samples_or_bad_samples(tmp_path_factory, turns, image, junk):
    folder = tmp_path_factory.getbasetemp()
    told = [{"from": who, "value": value} for who, value in turns]
    rows = [json.dumps({"conversations": told, "image": image}).encode(), b"." + junk.replace(b"\n", b"")]
    path = folder / "fuzz.jsonl"
    path.write_bytes(b"\n".join(rows))
    source = JsonlSource(path, seed=0, sizes=within(8, 32))
    for number in range(len(source)):
        # anything but a BadSample fails
        with suppress(BadSample):
            assert source.read(number).turns


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('{"prompt": 5}\n', ":1: none of"),
        ("[" * 100_000, ":1: "),
        ('"x"', ":1: none of"),
        (json.dumps({"text": "x" * 200_000}), ":1: a prompt of 200,000"),
        ("\n\n", "holds no prompts"),
    ],
)
def test_prompts_that_cannot_be_used_are_named(tmp_path, rows, message):
    (tmp_path / "p.jsonl").write_text(rows)
    with pytest.raises(ValueError, match=message):
        read_prompts(tmp_path / "p.jsonl", 3)

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import tiff
from tutelage.data.decode import decode, to_channels
from tutelage.data.looking import check, check_end, look
from tutelage.data.reading import Unreadable

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=-1)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    return decode(path).numpy()


def refused(path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(path)
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_colour_pictures_come_as_they_are(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(RGB), **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(pixels(path), RGB.transpose(2, 0, 1))
    assert (look(path).size, look(path).channels, look(path).deep) == ((3, 4), 3, False)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_grey_pictures_have_one_channel(tmp_path, suffix):
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(GREY))
    assert np.array_equal(pixels(path), GREY[None])
    assert look(path).channels == 1


def test_one_bit_pictures_are_black_and_white(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(GREY > 100))
    assert np.array_equal(pixels(path), np.where(GREY > 100, 255, 0)[None])


def test_sixteen_bits_are_scaled_not_cut(tmp_path):
    deep = np.array([[0, 1000], [32768, 65535]], dtype=np.uint16)
    for name in ("a.png", "a.tif"):
        path = saved(tmp_path / name, Image.fromarray(deep))
        assert decode(path).dtype == torch.float32
        assert np.allclose(pixels(path), deep[None] / 65535, atol=1e-7)
        assert look(path).deep


def test_a_jpeg_of_four_inks_becomes_colour(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=95)
    red = pixels(path)
    assert red.shape == (3, 8, 8)
    assert red[0].min() > 230 and red[1:].max() < 25


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pictures_lie_on_white(tmp_path, mode):
    colour = (200, 100, 0) if mode == "RGBA" else (100,)
    image = Image.new(mode, (3, 1), (*colour, 255))
    image.putpixel((1, 0), (*colour, 0))
    image.putpixel((2, 0), (*colour, 51))
    shown = pixels(saved(tmp_path / "a.png", image))
    assert shown.shape == (len(colour), 1, 3)
    for channel, value in enumerate(colour):
        expected = [value, 255, value * 0.2 + 255 * 0.8]
        assert np.abs(shown[channel, 0] - expected).max() <= 1


def test_a_palette_with_a_transparent_colour_lies_on_white(tmp_path):
    image = Image.new("P", (2, 1), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", image, transparency=1)
    assert pixels(path)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_palette_with_an_alpha_channel_lies_on_white(tmp_path):
    image = Image.new("PA", (3, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([(0, 255), (1, 0), (1, 51)])
    path = saved(tmp_path / "a.tif", image)
    with Image.open(path) as opened:
        assert opened.mode == "PA"
    assert pixels(path)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [204, 204, 255]]
    assert look(path).channels == 3


def test_every_transparent_entry_of_a_palette_lies_on_white(tmp_path):
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0, 9, 8, 7])
    image.putdata([0, 1, 2, 3])
    path = saved(tmp_path / "a.png", image, transparency=bytes([255, 0, 51]))  # of the fourth entry it says nothing
    assert pixels(path)[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255], [204, 255, 204], [9, 8, 7]]


def test_the_transparent_colour_of_a_png_without_a_palette_lies_on_white(tmp_path):
    colour = Image.new("RGB", (3, 1))
    colour.putdata([(200, 100, 0), (10, 20, 30), (10, 20, 31)])
    path = saved(tmp_path / "colour.png", colour, transparency=(10, 20, 30))
    assert pixels(path)[:, 0].T.tolist() == [[200, 100, 0], [255, 255, 255], [10, 20, 31]]
    grey = Image.fromarray(np.array([[7, 8, 9]], dtype=np.uint8))
    path = saved(tmp_path / "grey.png", grey, transparency=8)
    assert pixels(path).tolist() == [[[7, 255, 9]]]


def test_integers_of_32_bits_are_16_in_a_wider_box_or_refused(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 13107, 65535]], dtype=np.int32)).save(path)
    assert np.allclose(pixels(path), [[[0, 0.2, 1]]])
    for value in (65536, -1):
        Image.fromarray(np.array([[0, value]], dtype=np.int32)).save(path)
        assert refused(path) == "32-bit integers of unknown range"
        with pytest.raises(Unreadable, match="32-bit integers of unknown range"):
            check(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path, orientation):
    upright = Image.fromarray(RGB)
    # What a camera held that way stores: the inverse of what the tag asks for.
    stored = {
        1: RGB,
        2: RGB[:, ::-1],
        3: RGB[::-1, ::-1],
        4: RGB[::-1],
        5: RGB.transpose(1, 0, 2),
        6: RGB.transpose(1, 0, 2)[::-1],
        7: RGB.transpose(1, 0, 2)[::-1, ::-1],
        8: RGB.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.png", "a.tif"):
        path = saved(tmp_path / name, Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
        assert np.array_equal(pixels(path), np.asarray(upright).transpose(2, 0, 1)), name
        assert look(path).size == (3, 4)


def test_broken_exif_costs_no_pixels(tmp_path):
    path = saved(tmp_path / "a.jpg", Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert pixels(path).shape == (3, 3, 4)


def test_of_several_frames_the_first_counts(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (10, 90, 200)]
    for name in ("a.gif", "a.tif", "a.png"):
        path = saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
        assert np.unique(pixels(path)).tolist() == [10]


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "bmp", "tif"])
def test_no_truncated_file_gives_another_picture(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    whole = saved(tmp_path / f"whole.{suffix}", Image.fromarray(noise))
    data, expected = whole.read_bytes(), pixels(whole)
    cut = tmp_path / f"cut.{suffix}"
    refusals = 0
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        for read in (decode, check):
            try:
                result = read(cut)
            except Unreadable:
                refusals += 1
            else:
                # Some formats end with bytes that say nothing about pixels.
                assert read is check or np.array_equal(result.numpy(), expected), length
    assert refusals > 1.8 * (len(data) - 32)


def test_a_large_jpeg_cut_anywhere_is_refused_by_the_check(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    data = saved(tmp_path / "whole.jpg", Image.fromarray(noise)).read_bytes()
    cut = tmp_path / "cut.jpg"
    for share in (0.2, 0.5, 0.9, 0.999):
        cut.write_bytes(data[: int(len(data) * share)])
        for read in (check, check_end, decode):
            with pytest.raises(Unreadable, match="truncated"):
                read(cut)


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp"])
def test_the_end_mark_is_missed_in_files_cut_short(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = saved(tmp_path / f"whole.{suffix}", Image.fromarray(noise))
    assert check_end(whole) == look(whole)
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(Unreadable):
        check_end(cut)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"just some words\n", "not a picture (looks like text)"),
        (b"<!DOCTYPE html><html></html>", "not a picture (looks like HTML)"),
        (b"%PDF-1.7 ...", "format PDF is not enabled"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "format EPS is not enabled"),
        (b"\0\0\0\x1cftypheic\0\0", "format HEIC or AVIF is not enabled"),
        (bytes(range(128, 256)), "not a picture, or a damaged header"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, content, reason):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert refused(path) == reason
    for read in (look, check, check_end):
        with pytest.raises(Unreadable):
            read(path)


def test_formats_outside_the_list_are_not_opened(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, format="PPM")
    assert "not a picture" in refused(path)


def test_content_counts_and_not_the_suffix(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB).save(path, format="PNG")
    assert np.array_equal(pixels(path), RGB.transpose(2, 0, 1))


def test_missing_files_and_folders_are_unreadable(tmp_path):
    assert refused(tmp_path / "none.png") == "no such file or directory"
    assert refused(tmp_path / "none.npy") == "no such file or directory"
    assert "directory" in refused(tmp_path)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_bombs_are_refused_on_their_header(tmp_path):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + png_chunk(b"IDAT", zlib.compress(bytes(1000)))
        + png_chunk(b"IEND", b"")
    )
    assert "pixels" in refused(path)
    with pytest.raises(Unreadable, match="pixels"):
        look(path)


def test_damaged_files_are_refused_and_never_crash(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a"
    outcomes = set()
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        buffer = BytesIO()
        Image.fromarray(RGB).resize((24, 24)).save(buffer, format=kind)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            path.write_bytes(data)
            try:
                outcomes.add(decode(path).ndim)
            except Unreadable as unreadable:
                assert 0 < len(unreadable.reason) <= 120
                outcomes.add("refused")
    assert outcomes == {3, "refused"}


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 7])
def test_arrays_on_disk_have_any_number_of_channels(tmp_path, channels):
    shape = (9, 8) if channels is None else (9, 8, channels)
    array = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    path = tmp_path / "a.npy"
    np.save(path, array)
    expected = (array[None] if channels is None else array.transpose(2, 0, 1)) / 65535
    assert np.allclose(pixels(path), expected, atol=1e-7)
    seen = check(path)
    assert (seen.size, seen.channels, seen.deep) == ((9, 8), channels or 1, True)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((4, 4), 1.5), "floats outside 0..1"),
        (np.full((4, 4), np.nan), "floats outside 0..1"),
        (np.zeros((4, 4), dtype=np.int64), "dtype int64"),
        (np.zeros((3, 8, 8), dtype=np.uint8), r"\[height, width, channels\]"),
        (np.zeros(4, dtype=np.uint8), r"\[height, width\]"),
        (np.zeros((0, 4), dtype=np.uint8), "no pixels"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(tmp_path, array, reason):
    np.save(tmp_path / "a.npy", array)
    for read in (decode, check):
        with pytest.raises(Unreadable, match=reason):
            read(tmp_path / "a.npy")


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "allow_pickle" in refused(tmp_path / "a.npy") or "object" in refused(tmp_path / "a.npy").lower()


def many_channel_tiff(array: np.ndarray) -> bytes:
    """A little-endian TIFF of [h, w, c] in one strip, written by hand."""
    height, width, channels = array.shape
    bits = array.dtype.itemsize * 8
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    extra = max(0, channels - 3) if channels != 3 else 0
    photometric = 2 if channels == 3 else 1
    extra = 0 if channels == 3 else channels - 1
    num_entries = 10 + (extra > 0)
    tables_at = 8 + 2 + 12 * num_entries + 4
    bits_table = struct.pack(f"<{channels}H", *[bits] * channels)
    extra_table = struct.pack(f"<{extra}H", *[0] * extra)
    strip_at = tables_at + len(bits_table) + len(extra_table)
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, tables_at),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, strip_at),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (284, 3, 1, 1),
    ]
    if extra:
        entries.append((338, 3, extra, tables_at + len(bits_table)))
    directory = struct.pack("<H", num_entries) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + bits_table + extra_table + data


@pytest.mark.parametrize(("channels", "dtype"), [(6, np.uint8), (5, np.uint16), (3, np.uint16)])
def test_tiffs_beyond_pillow_are_read_by_tifffile_or_refused_by_name(tmp_path, channels, dtype):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (8, 7, channels)).astype(dtype)
    path = tmp_path / "a.tif"
    path.write_bytes(many_channel_tiff(array))
    assert tiff.needed(path.read_bytes())
    try:
        import tifffile  # noqa: F401
    except ImportError:
        assert refused(path) == "a TIFF of this kind needs: pip install 'tutelage[tiff]'"
        return
    expected = array.transpose(2, 0, 1) if dtype == np.uint8 else array.transpose(2, 0, 1) / np.float32(65535)
    assert np.allclose(pixels(path), expected, atol=1e-7)
    assert (check(path).channels, check(path).size) == (channels, (8, 7))


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "1"])
def test_ordinary_tiffs_need_nothing_but_pillow(tmp_path, mode):
    path = saved(tmp_path / "a.tif", Image.fromarray(RGB).convert(mode))
    assert not tiff.needed(path.read_bytes())
    assert decode(path).shape[1:] == (3, 4)


def test_grey_becomes_colour_by_repetition_and_colour_grey_by_luma():
    grey = torch.from_numpy(GREY)[None]
    assert torch.equal(to_channels(grey, 3), torch.cat([grey] * 3))
    luma = to_channels(torch.from_numpy(RGB).permute(2, 0, 1), 1)
    pillow = np.asarray(Image.fromarray(RGB).convert("L"))
    assert np.abs(luma[0].numpy().astype(int) - pillow).max() <= 1
    assert luma.dtype == torch.uint8
    deep = to_channels(torch.from_numpy(RGB).permute(2, 0, 1) / 255, 1)
    assert np.allclose(deep[0], RGB @ np.array([0.2989, 0.587, 0.114]) / 255, atol=1e-6)


def test_other_changes_of_channels_are_refused():
    with pytest.raises(Unreadable, match="5 channels where the set has 3"):
        to_channels(torch.zeros(5, 2, 2), 3)

"""Pictures that are damaged, hostile, huge, or go bad while a run reads them."""

import errno
import hashlib
import json
import os
import struct
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import EXIF, array, chunk, image, in_children, mutated, png, saved, seeds, tiff
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from data.pictures_on_disk import damage, fill
from small_runs import tiny
from tutelage import durable
from tutelage.batch import Stream
from tutelage.data import found, reading
from tutelage.data.decode import FULL_PIXELS, decode
from tutelage.data.index import Pictures, open_data
from tutelage.data.looking import check, check_end, look
from tutelage.data.order import Draws
from tutelage.data.reading import Unreadable
from tutelage.data.sources import IN_FLIGHT
from tutelage.data.streams import PictureStream, batches
from tutelage.data.views import ViewsSettings
from tutelage.engine.pretrain import pretrain
from tutelage.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore")


def classify(path: Path) -> str:
    """What becomes of a file: "read c h w" or "refused why"; and whether header, check and decoder agree."""
    try:
        seen = check(path)
    except Unreadable as unreadable:
        seen = None
        assert 0 < len(unreadable.reason) <= 120
    try:
        check_end(path)
        picture = decode(path)
    except Unreadable as unreadable:
        return (
            f"refused {unreadable.reason}" if seen is None or "truncated" in unreadable.reason else "passed the check"
        )
    assert seen is not None and (seen.channels, *seen.size) == tuple(picture.shape)
    assert picture.dtype in (torch.uint8, torch.float32) and picture.isfinite().all()
    return "read " + " ".join(map(str, picture.shape))


def refusal(path: Path) -> str:
    try:
        return f"read {tuple(decode(path).shape)}"
    except Unreadable as unreadable:
        return unreadable.reason


def written(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def test_spoiled_files_are_read_or_refused_and_never_crash_or_hang(tmp_path, amount, figure):
    count = amount(150, 1000, 10_000)
    trial = in_children(written(tmp_path, dict(mutated(count))), classify)
    outcomes = Counter(outcome.said.split()[0] for outcome in trial.outcomes)
    wrong = [o for o in trial.outcomes if not o.said.startswith(("read ", "refused "))]
    assert not wrong
    assert outcomes["read"] > count // 10 and outcomes["refused"] > count // 4  # mutants of both kinds were made
    assert trial.peak_bytes < 2**30
    slowest = max(o.seconds for o in trial.outcomes)
    figure(
        f"{count:,} mutated picture files: 0 crashes, 0 hangs, each read or left out with a reason, 1 GiB at most",
        f"{count:,} of {count:,}: {outcomes['read']:,} read, {outcomes['refused']:,} left out, slowest {slowest:.2f} s, "
        f"{trial.peak_bytes / 2**20:.0f} MiB",
    )


def test_whole_files_of_every_kind_are_read(tmp_path):
    trial = in_children(written(tmp_path, seeds()), classify)
    assert len(trial.outcomes) == len(seeds())
    assert [o for o in trial.outcomes if not o.said.startswith("read ")] == []


def test_the_child_processes_of_these_tests_tell_which_file_made_them_hang_or_crash(tmp_path):
    paths = written(tmp_path, dict.fromkeys(("good", "hangs", "aborts", "raises", "swallows", "last"), b"x"))

    def work(path: Path) -> str:
        while path.name == "hangs":
            pass
        if path.name == "aborts":
            os.abort()
        if path.name == "raises":
            raise RuntimeError
        if path.name == "swallows":
            bytearray(2**31)
        return "done"

    trial = in_children(paths, work, seconds=0.2)
    assert [o.said.split()[0] for o in trial.outcomes] == ["done", "hang", "crash", "crash", "crash", "done"]
    assert [o.path for o in trial.outcomes] == paths


def vast_gif(side: int) -> bytes:
    """A GIF that claims so many pixels a side."""
    gif, claim = bytearray(saved("GIF")), struct.pack("<HH", side, side)
    frame = gif.index(b",") + 5
    gif[6:10] = gif[frame : frame + 4] = claim
    return bytes(gif)


def bombs() -> dict[str, bytes]:
    """Files of a few kilobytes that claim more than a computer has."""
    bmp = bytearray(saved("BMP"))
    bmp[18:26] = struct.pack("<ii", 60000, 60000)
    jpeg = bytearray(saved("JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 5 : jpeg.index(b"\xff\xc0") + 9] = struct.pack(">HH", 65500, 65500)
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") * 2
    webp = b"RIFF" + struct.pack("<I", 22 + 4) + b"WEBP" + canvas
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + "\n"
    return {
        "bomb.png": png(60000, 60000),
        "thin.png": png(2**31 - 1, 1),
        "bomb.gif": vast_gif(60000),
        "bomb.bmp": bytes(bmp),
        "bomb.jpg": bytes(jpeg),
        "bomb.webp": webp,
        "bomb.tif": tiff(60000, 60000, 1, bytes(1000)),
        "channels.tif": tiff(60000, 60000, 6, bytes(1000)),
        "deep.tif": tiff(60000, 60000, 3, bytes(1000), bits=16),
        "many.tif": tiff(8000, 8000, 900, bytes(1000)),
        "bomb.npy": b"\x93NUMPY\x01\0" + struct.pack("<H", 118) + header.encode(),
        "nested.npy": b"\x93NUMPY\x01\0" + struct.pack("<H", 5000) + b"(" * 5000,
    }


def test_decompression_bombs_are_refused_on_their_header(tmp_path):
    small = in_children(written(tmp_path, {"small.png": saved("PNG"), "small.tif": seeds()["six.tif"]}), refusal)
    trial = in_children(written(tmp_path, bombs()), refusal)
    for outcome in trial.outcomes:
        assert not outcome.said.startswith(("read", "crash", "hang")), outcome
        assert outcome.seconds < 0.5
    said = {outcome.path.name: outcome.said for outcome in trial.outcomes}
    for name in ("bomb.png", "bomb.gif", "bomb.bmp", "bomb.tif", "channels.tif", "deep.tif"):
        assert said[name] == "3,600,000,000 pixels, more than 67,108,864", name
    assert said["thin.png"] == "2,147,483,647 pixels, more than 67,108,864"
    assert said["bomb.webp"] == "268,402,689 pixels, more than 67,108,864"
    assert said["bomb.npy"] == "1,000,000,000,000 pixels, more than 67,108,864"
    assert said["bomb.jpg"].startswith("4,290,250,000 pixels, more than ")
    assert said["many.tif"] == "more than 268,435,456 values"
    assert trial.peak_bytes - small.peak_bytes < 50 * 2**20


def test_pictures_above_our_limit_and_below_pillows_are_refused_with_their_number_of_pixels(tmp_path):
    """Pillow warns from 89 million pixels on, and refuses twice as many."""
    files = {"a.png": png(12288, 12288), "a.tif": tiff(12288, 12288, 1, bytes(1000)), "a.gif": vast_gif(12288)}
    for path in written(tmp_path, files):
        assert refusal(path) == "150,994,944 pixels, more than 67,108,864"
        with pytest.raises(Unreadable, match="150,994,944 pixels, more than 67,108,864"):
            check_end(path)


def test_metadata_of_megabytes_costs_no_pixels_and_little_memory(tmp_path):
    ten = 10 * 2**20
    packed, noise = b"a\0\0" + zlib.compress(bytes(10 * ten)), np.random.default_rng(0).bytes(60000)
    files = {
        "profile.jpg": saved("JPEG", icc_profile=noise * 100),
        "comment.jpg": saved("JPEG", comment=noise),
        "exif.jpg": saved("JPEG", exif=b"Exif\0\0MM\0*" + noise),
        "exif.webp": saved("WEBP", exif=b"Exif\0\0MM\0*" + noise * 170, lossless=True),
        "packed.png": png(4, 3, bytes(39), 2, chunk(b"zTXt", packed)),
        "long.png": png(4, 3, bytes(39), 2, chunk(b"tEXt", b"a\0" + b"x" * ten)),
        "profile.png": png(4, 3, bytes(39), 2, chunk(b"iCCP", packed)),
        "broken.png": saved("PNG", icc_profile=b"no profile"),
        "broken.tif": saved("TIFF", icc_profile=b"no profile"),
    }
    paths = written(tmp_path, files)
    assert sum(len(data) > 2**20 for data in files.values()) >= 3
    plain = written(tmp_path, {f"plain.{kind}": saved(kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF")})
    small, trial = in_children(plain, classify), in_children(paths, classify)
    assert len(trial.outcomes) == len(files) and all(o.said.startswith("read ") for o in trial.outcomes)
    assert trial.peak_bytes - small.peak_bytes < 4 * ten  # the file itself, and what is kept of it
    assert np.array_equal(decode(tmp_path / "broken.png").permute(1, 2, 0), np.asarray(image()))


def test_a_huge_jpeg_is_decoded_smaller_and_stays_the_same_picture(tmp_path, amount):
    width, height = amount(4801, 12_000, 12_000), amount(3600, 8000, 8000)
    across, down = np.linspace(0, 255, width, dtype=np.float32), np.linspace(0.2, 1, height, dtype=np.float32)
    path = tmp_path / "huge.jpg"
    Image.fromarray(np.outer(down, across).astype(np.uint8)).convert("RGB").save(path, exif=EXIF, quality=90)
    parts = 2 if width < 8192 else 4
    trial = in_children([path], lambda path: str(list(decode(path).shape)), seconds=10, memory=2**29)
    shape = [3, -(-width // parts), -(-height // parts)]  # turned
    assert trial.outcomes[0].said == str(shape)
    assert FULL_PIXELS / 4 < shape[1] * shape[2] <= FULL_PIXELS
    assert look(path).size == (width, height)
    shown = decode(path)
    expected = np.rot90(np.outer(down[parts // 2 :: parts], across[parts // 2 :: parts]), -1).copy()
    for channel in shown[:, -expected.shape[0] :, -expected.shape[1] :].numpy():
        assert np.abs(channel - expected).max() < 6
    assert torch.equal(shown, decode(path))


def test_a_jpeg_of_sixteen_megapixels_is_decoded_whole(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("L", (4096, 4096), 77).save(path)
    assert decode(path).shape == (1, 4096, 4096)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3000)])
def test_pictures_of_any_shape_give_views(tmp_path, size):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((*size, 3), 90, dtype=np.uint8)).save(path)
    views = ViewsSettings()
    for view in (views.simple, views.complex):
        shown = view(decode(path), (32, 32), Draws(1))
        assert shown.shape == (3, 32, 32)


def test_inks_of_either_kind_and_floats_become_known_colours(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    paths = written(tmp_path, {"inks.jpg": saved("JPEG", red, quality=100), "inks.tif": saved("TIFF", red)})
    ycck = bytearray(paths[0].read_bytes())
    assert ycck[ycck.index(b"Adobe") + 11] == 0
    ycck[ycck.index(b"Adobe") + 11] = 2  # the same numbers, now Y, Cb, Cr and K
    paths += written(tmp_path, {"ycck.jpg": bytes(ycck)})
    for path in paths[:2]:
        assert np.abs(decode(path).float().mean(dim=(1, 2)) - np.array([255, 0, 0])).max() < 3
    y, cb, cr = 255, 0 - 128, 0 - 128  # stored upside down, as inks are in JPEGs: 255 - (0, 255, 255, 0)
    inks = np.clip([y + 1.402 * cr, y - 0.344 * cb - 0.714 * cr, y + 1.772 * cb], 0, 255)
    assert np.abs(decode(paths[2]).float().mean(dim=(1, 2)).numpy() - (255 - inks)).max() < 4
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(values).save(tmp_path / "float.tif")
    assert np.allclose(decode(tmp_path / "float.tif"), values)
    Image.new("LAB", (4, 4), (138, 128 + 81, 128 + 70)).save(tmp_path / "lab.tif")  # red: L* 54.3, a* 81, b* 70
    assert np.abs(decode(tmp_path / "lab.tif").float().mean(dim=(1, 2)).numpy() - [255, 0, 0]).max() < 10


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_pictures_of_every_orientation_are_upright_and_look_so(tmp_path, kind, turn):
    stored = np.zeros((16, 32), dtype=np.uint8)
    stored[:8, :8] = 250  # a white square in the first corner
    exif = Image.Exif()
    exif[0x0112] = turn
    path = written(tmp_path, {"a": saved(kind, Image.fromarray(stored).convert("RGB"), exif=exif)})[0]
    shown = decode(path)
    assert shown.shape[1:] == ((16, 32) if turn < 5 else (32, 16)) == look(path).size == check(path).size
    bottom, right = divmod(int(shown[0].float().argmax()), shown.shape[2])
    corner = (bottom >= shown.shape[1] // 2, right >= shown.shape[2] // 2)
    # Where the first corner of what is stored belongs, by the EXIF standard.
    assert corner == [(0, 0), (0, 1), (1, 1), (1, 0), (0, 0), (0, 1), (1, 1), (1, 0)][turn - 1]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_what_moves_the_first_frame_counts(tmp_path, kind):
    frames = [Image.new("RGB", (9, 9), (value,) * 3) for value in (10, 90, 200)]
    path = written(tmp_path, {"a": saved(kind, frames[0], save_all=True, append_images=frames[1:])})[0]
    with Image.open(path) as opened:
        assert opened.n_frames == 3
    assert (decode(path).float() - 10).abs().max() < 3


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_file_that_moves_or_has_pages_is_noted_and_others_are_not(tmp_path, kind):
    several, other = (saved(k, save_all=True, append_images=[image(seed=1), image(seed=2)]) for k in (kind, "MPO"))
    written(tmp_path, {f"still.{k.lower()}": saved(k) for k in ("GIF", "WEBP", "PNG", "TIFF", "JPEG")})
    (phone,) = written(tmp_path, {"phone.jpg": other})
    with Image.open(phone) as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 3)
    assert not [note for note in open_data(str(tmp_path)).found.notes if "first picture" in note]
    written(tmp_path, {f"a.{kind.lower()}": several, f"b.{kind.lower()}": several})
    notes = open_data(str(tmp_path)).found.notes
    assert f"2 files move or have pages: the first picture of each counts (a.{kind.lower()})" in notes


def test_formats_that_are_not_enabled_are_named(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "eps.jpg", format="EPS")
    Image.new("RGB", (8, 8)).save(tmp_path / "pdf.png", format="PDF")
    others = {
        "fits.tif": b"SIMPLE  =                    T",
        "psd.png": b"8BPS\0\1",
        "svg.png": b"<svg xmlns=...",
        "avif.jpg": b"\0\0\0\x1cftypavif\0\0",
        "heic.jpg": b"\0\0\0\x1cftypheic\0\0",
    }
    for path in [tmp_path / "eps.jpg", tmp_path / "pdf.png", *written(tmp_path, others)]:
        assert "is not enabled" in refusal(path) and path.stem.upper() in refusal(path).upper()


def test_a_name_that_tells_another_format_is_noted(tmp_path):
    fill(tmp_path, 5)
    (tmp_path / "a.jpg").write_bytes(saved("PNG"))
    notes = open_data(str(tmp_path)).found.notes
    assert "1 files are of another format than their names say (a.jpg is PNG)" in notes


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    with (tmp_path / "vast.png").open("wb") as file:
        file.truncate(reading.MAX_BYTES + 1)
    (tmp_path / "circle.png").symlink_to("circle.png")
    trial = in_children(sorted(tmp_path.iterdir()), refusal)
    assert [o.said for o in trial.outcomes] == [
        "too many levels of symbolic links",
        "not a regular file",
        "not a regular file",
        f"more than {reading.MAX_BYTES:,} bytes",
    ]


@pytest.fixture
def unchecked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets count as large: when they are opened, only the ends of files are read."""
    monkeypatch.setattr(found, "MAX_CHECKED", 0)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))


def part_damaged(folder: Path, count: int, bad: int) -> Pictures:
    """The training part of a large set of which some pictures turn out to be damaged only when they are decoded."""
    for path in fill(folder, count)[3 : 3 + 2 * bad : 2]:
        damage(path)
    data = open_data(str(folder), holdout=0.0)
    assert data.found.unreadable == () and len(data.train) == count
    return data.train


def seen(train: Pictures, first: int, last: int, world: int, workers: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Which pictures each step sees, in the order of their positions, and their views."""
    stream = PictureStream(train, Stream(("simple",)), ViewsSettings(), (8, 8), 4, seed=5)
    ranks = [
        list(batches(stream, first_step=first, last_step=last, batch_size=8, rank=r, world=world, workers=workers))
        for r in range(world)
    ]
    steps = []
    for parts in zip(*ranks, strict=True):
        numbers = np.stack([part[0].indices.numpy() for part in parts], axis=1).reshape(-1)
        views = np.stack([part[0].views[0].numpy() for part in parts], axis=1)
        steps.append((numbers, views.reshape(-1, *views.shape[2:])))
    return steps


def test_what_replaces_a_damaged_picture_is_the_same_after_a_resume_and_on_any_number_of_processes(tmp_path, unchecked):
    train = part_damaged(tmp_path / "set", 40, bad=6)
    whole = seen(train, 0, 12, world=1)
    assert len(train.source.failed) == 6
    bad = {k for k in range(len(train)) if train.name(k) in train.source.failed}
    assert not bad & {int(k) for numbers, _ in whole for k in numbers}
    first_epoch = Counter(int(k) for numbers, _ in whole[:5] for k in numbers)
    assert first_epoch == Counter(k + 1 if k in bad else k for k in range(40))  # by hand: every other one is damaged

    resumed = [*seen(open_data(str(tmp_path / "set"), holdout=0.0).train, 0, 5, world=2, workers=2)]
    resumed += seen(open_data(str(tmp_path / "set"), holdout=0.0).train, 5, 12, world=4)
    for (numbers, views), (others, other_views) in zip(whole, resumed, strict=True):
        assert np.array_equal(numbers, others) and np.array_equal(views, other_views)


def test_ten_pictures_that_go_bad_in_a_run_are_too_many_and_nine_are_not(tmp_path, unchecked):
    train = part_damaged(tmp_path / "nine", 40, bad=9)
    seen(train, 0, 5, world=1)
    assert len(train.source.failed) == 9
    train = part_damaged(tmp_path / "ten", 40, bad=10)
    with pytest.raises(DataError) as caught:
        seen(train, 0, 5, world=1)
    assert (caught.value.code, caught.value.exit_code) == ("D-04", 3)
    assert "10 of 40 files" in str(caught.value) and "a checksum is wrong (10)" in str(caught.value)
    train = part_damaged(tmp_path / "share", 200, bad=10)  # a twentieth, and no more
    seen(train, 0, 25, world=1)
    assert len(train.source.failed) == 10


def test_what_was_left_out_at_first_counts_too(tmp_path, unchecked):
    paths = fill(tmp_path / "set", 40)
    for k in range(6):
        (tmp_path / "set" / f"empty{k}.png").write_bytes(b"")
        damage(paths[k])
    data = open_data(str(tmp_path / "set"), holdout=0.0)
    assert len(data.found.unreadable) == 6
    with pytest.raises(DataError, match=r"D-04: 10 of 46 files .*empty file \(6\)"):
        seen(data.train, 0, 5, world=1)


def test_a_run_tells_what_was_damaged_and_ends_with_exit_3_when_it_is_too_much(tmp_path, unchecked):
    part_damaged(tmp_path / "some", 80, bad=5)
    settings = tiny("mae", data=str(tmp_path / "some"), epochs=3)
    assert not pretrain(settings, tmp_path / "run", quiet=True).stopped
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    told = [event for event in map(json.loads, lines) if event["event"] == "unreadable"]
    assert sorted(event["name"] for event in told) == [f"{k:03d}.png" for k in range(3, 13, 2)]
    assert all("checksum" in event["reason"] for event in told)
    for event in told:
        assert event["sha256"] == hashlib.sha256((tmp_path / "some" / event["name"]).read_bytes()).hexdigest()

    part_damaged(tmp_path / "much", 80, bad=20)
    with pytest.raises(DataError, match=r"1\d of 80 files .* a checksum is wrong \(1\d\)") as caught:
        pretrain(tiny("mae", data=str(tmp_path / "much"), epochs=3), tmp_path / "other", quiet=True)
    assert (caught.value.code, caught.value.exit_code) == ("D-04", 3)


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def exchanged(path: Path) -> None:
    other = path.with_suffix(".other")
    other.write_bytes(path.read_bytes())
    os.utime(other, (1, 1))
    other.replace(path)


def forbidden(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [grown, rewritten, exchanged, forbidden, Path.unlink])
def test_a_file_that_changes_under_a_run_ends_it_and_is_never_another_picture(tmp_path, change):
    fill(tmp_path, 5)
    train = open_data(str(tmp_path), holdout=0.0).train
    train.read(2)
    time.sleep(0.02)  # file systems count time in ticks
    change(tmp_path / train.name(2))
    with pytest.raises(DataError) as caught:
        train.read(2)
    assert caught.value.code == "D-07" and train.name(2) in str(caught.value)
    assert train.source.failed == {}
    assert train.fetch(3)[0] == 3


NO_DISK = Path("/proc/self/mem")
"""Reading its beginning is an input/output error, of the kernel's own."""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(durable, "WAITS", (0.1, 0.1, 0.1))
    if not NO_DISK.exists():
        pytest.skip("there is no /proc to take an input/output error from")


def fail(path: Path) -> Path:
    """Put a file that gives EIO in the place of a picture; returns where the picture now lies."""
    aside = path.with_suffix(".aside")
    path.rename(aside)
    path.symlink_to(NO_DISK)
    with pytest.raises(OSError, match="error") as caught:
        path.read_bytes()
    assert caught.value.errno == errno.EIO
    return aside


def test_a_disk_that_fails_for_a_moment_is_asked_again(tmp_path, quick):
    fill(tmp_path, 5)
    train = open_data(str(tmp_path), holdout=0.0).train
    expected = train.read(2)
    path = tmp_path / train.name(2)
    aside = fail(path)
    mend = threading.Timer(0.15, lambda: aside.replace(path))
    mend.start()
    start = time.perf_counter()
    number, shown = train.fetch(2)
    mend.join()
    assert number == 2 and torch.equal(shown, expected)
    assert time.perf_counter() - start >= 0.15
    assert train.source.failed == {}


def test_a_disk_that_keeps_failing_ends_the_run_without_a_substitute(tmp_path, quick):
    fill(tmp_path, 5)
    train = open_data(str(tmp_path), holdout=0.0).train
    fail(tmp_path / train.name(2))
    start = time.perf_counter()
    with pytest.raises(DataError) as caught:
        train.fetch(2)
    assert 0.3 <= time.perf_counter() - start < 1
    assert (caught.value.code, caught.value.exit_code) == ("D-08", 3)
    assert train.name(2) in str(caught.value) and "4 tries: input/output error" in str(caught.value)
    assert train.source.failed == {}
    with pytest.raises(DataError, match="D-08"):
        open_data(str(tmp_path))  # nor is it left out when a run begins


def test_the_file_that_each_thread_reads_or_decodes_is_known_while_it_does_and_not_after(tmp_path, monkeypatch):
    paths = fill(tmp_path, 2)
    source = open_data(str(tmp_path), holdout=0.0).train.source
    together, prepare = threading.Barrier(2), PngImageFile.load_prepare
    decoding: list[dict[int, Path]] = []

    def both(picture: PngImageFile) -> None:
        together.wait(10)
        decoding.append(dict(IN_FLIGHT))
        together.wait(10)
        prepare(picture)

    monkeypatch.setattr(PngImageFile, "load_prepare", both)
    threads = [threading.Thread(target=source.picture, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoding == [{thread.ident: path for thread, path in zip(threads, paths, strict=True)}] * 2
    assert IN_FLIGHT == {}


def test_a_file_is_in_flight_from_before_it_is_opened_until_it_failed(tmp_path):
    paths = fill(tmp_path, 3)
    source = open_data(str(tmp_path), holdout=0.0).train.source
    damage(paths[1])
    opening: list[dict[int, Path]] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching and str(arguments[0]) == str(paths[1]):
            opening.append(dict(IN_FLIGHT))

    watching = [True]
    sys.addaudithook(watch)
    for error in (Unreadable, DataError):
        with pytest.raises(error):
            source.picture(1)
        assert IN_FLIGHT == {}
        paths[1].unlink(missing_ok=True)
    watching.clear()
    assert opening == [{threading.get_ident(): paths[1]}] * 2


def test_damaged_files_are_told_by_their_sha256(tmp_path):
    paths = fill(tmp_path, 3)
    source = open_data(str(tmp_path), holdout=0.0).train.source
    damage(paths[1])
    with pytest.raises(Unreadable):
        source.picture(1)
    assert source.hashes == {"001.png": hashlib.sha256(paths[1].read_bytes()).hexdigest()}
    assert source.sha256(0) == hashlib.sha256(paths[0].read_bytes()).hexdigest()
    paths[0].unlink()
    assert source.sha256(0) is None


def test_arrays_are_not_mapped_so_that_a_file_cut_while_read_cannot_kill_the_process(tmp_path):
    path = written(tmp_path, {"a.npy": array(np.full((64, 64), 0.5))})[0]
    picture = decode(path)
    path.write_bytes(b"")
    assert float(picture.sum()) == 0.5 * 64 * 64

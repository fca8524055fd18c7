"""Folders, names, lists and labels as people and other programs leave them."""

import json
import os
import pwd
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import image, in_children, saved
from PIL import Image

from data.pictures_on_disk import fill, picture
from small_runs import FLAGS, FORKSERVER
from tutelage.data import found
from tutelage.data.index import Data, open_data
from tutelage.engine.run import RunFolder
from tutelage.errors import DataError


def everything(data: Data) -> dict[str, int]:
    """Names and labels of all pictures."""
    parts = (data.train, data.held_out, data.test)
    return {part.name(i): int(part.labels[i]) for part in parts for i in range(len(part))}


def refused(data: Path, code: str) -> str:
    with pytest.raises(DataError) as caught:
        open_data(str(data))
    assert (caught.value.code, caught.value.exit_code) == (code, 3)
    str(caught.value).encode("utf-8", "backslashreplace")
    return str(caught.value)


def hostile_names() -> list[str]:
    """Sixty names that a file system takes and programs stumble over, each with its suffix."""
    marks = " '\"`$;&|<>*?[]{}()#!%^=+,~@:\\"
    names = [f"a{mark}b" for mark in marks]
    names += [
        "-dash",
        "--out=x",
        "-rf",
        "a\nb",
        "a\r\nb",
        "a\tb",
        "\n",
        " ",
        "  ends with blanks  ",
        "a\x1b[2Jb",
        "\x07",
    ]
    names += ["📷", "写真", "صورة", "a\u202eb", "a\u200bb", "a\u2028b", "a\x85b", "a\x0bb", "a\x1cb"]
    names += [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    names += [os.fsdecode(bytes(raw)) for raw in ([0xFF, 0xFE], [0x66, 0xE9], [0xED, 0xA0, 0x80])]
    names += [
        "CON",
        "nul",
        "A",
        "a",
        "x" * 251,
        "é" * 125,
        "=cmd()",
        "{0}",
        "%s%n",
        "a.jpg",
        "<script>alert(1)<",
        "NaN",
    ]
    assert len(names) == len(set(names)) >= 60
    return [f"{name}.png" for name in names]


@pytest.fixture
def strange(tmp_path: Path) -> Path:
    """A folder of pictures with these names, in two classes, of which every tenth is empty."""
    for k, name in enumerate(hostile_names()):
        folder = tmp_path / "set" / ("b\ta d", 'q"\n')[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if k % 10 == 9 else saved("PNG", picture(k, (16, 16))))
    fill(tmp_path / "set" / "b\ta d", 150)
    return tmp_path / "set"


def test_hostile_names_are_all_read_and_told_on_one_line_each(strange):
    data = open_data(str(strange))
    good = {name for k, name in enumerate(hostile_names()) if k % 10 != 9}
    assert {name.split("/", 1)[1] for name in everything(data)} >= good
    assert len(data.found.unreadable) == len(hostile_names()) - len(good) >= 6
    assert set(data.train.classes) == {"b\ta d", 'q"\n'}
    for line in data.found.lines():
        assert line.isprintable()
    for name, reason in data.found.unreadable:
        assert name.encode() and reason == "empty file"
    assert open_data(str(strange)).fingerprint == data.fingerprint


def test_a_run_on_hostile_names_keeps_them_in_its_files(strange, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "tutelage", "pretrain", "mae-quickstart", f"--data={strange}", f"--out={out}"]
    done = subprocess.run([*command, "--steps=2", *FLAGS], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    kept = json.loads((out / "data.json").read_text(encoding="utf-8"))
    expected = [[name, reason] for name, reason in open_data(str(strange)).found.unreadable]
    assert kept["unreadable"] == expected and len(expected) >= 6
    events = [json.loads(line) for line in (out / "events.jsonl").read_text(encoding="utf-8").split("\n") if line]
    told = [event["name"] for event in events if event["event"] == "unreadable"]
    assert told == [name for name, _ in expected]
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in report
    assert b"\x1b" not in done.stdout + done.stderr and b"\x07" not in done.stdout + done.stderr


def test_names_that_are_no_unicode_can_be_written_as_events(tmp_path):
    name = os.fsdecode(b"\xff.png")
    fill(tmp_path / "set", 30)
    (tmp_path / "set" / name).write_bytes(b"")
    data = open_data(str(tmp_path / "set"))
    run = RunFolder(tmp_path / "run")
    for told, reason in data.found.unreadable:
        run.event("unreadable", name=told, reason=reason)
    run.close()
    assert json.loads((tmp_path / "run" / "events.jsonl").read_text())["name"] == "\\xff.png"


def test_hostile_names_can_be_listed(strange):
    names = [str(path.relative_to(strange)) for path in sorted(strange.rglob("*.png"))]
    plain = [name for name in names if not set(name) & {"\n", "\r"}]
    (strange / "list.txt").write_bytes(b"".join(os.fsencode(name) + b"\n" for name in plain))
    quoted = ['"' + name.replace('"', '""') + '",x\r\n' for name in names]
    (strange / "table.csv").write_bytes(b"path,label\r\n" + b"".join(map(os.fsencode, quoted)))
    good = {name for name in names if (strange / name).stat().st_size}
    assert len(set(names) - set(plain)) >= 30 < len(plain)
    assert set(everything(open_data(str(strange / "list.txt")))) == good & set(plain)
    assert set(everything(open_data(str(strange / "table.csv")))) == good


def test_deep_folders_and_long_paths_are_read(tmp_path):
    here = tmp_path
    for _ in range(12):
        here = here / ("d" * 200)
        here.mkdir()
    fill(here, 3)
    fill(tmp_path / "a", 20)
    data = open_data(str(tmp_path))
    assert max(map(len, everything(data))) > 2400
    assert data.found.unreadable == ()


def as_nobody(data: Path) -> str:
    """What a user without rights finds: root may read everything."""
    os.setgid(65534)
    os.setuid(65534)
    try:
        found = open_data(str(data)).found
    except DataError as error:
        return f"exit {error.exit_code}, {error}"
    return f"{found.num_pictures} {dict(found.unreadable)}"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become nobody")
def test_files_and_folders_without_permission_are_told_from_damaged_ones(tmp_path):
    Image.init()  # nobody may not be allowed to import
    for folder in (tmp_path, *tmp_path.parents):
        if folder.name.startswith(("pytest-", "popen-", tmp_path.name)):
            folder.chmod(0o755)
    paths = fill(tmp_path / "set", 30)
    paths[7].chmod(0)
    (outcome,) = in_children([tmp_path / "set"], as_nobody, seconds=10).outcomes
    assert outcome.said == "29 {'007.png': 'permission denied'}"
    fill(tmp_path / "set" / "closed", 2)
    (tmp_path / "set" / "closed").chmod(0o600)
    (outcome,) = in_children([tmp_path / "set"], as_nobody, seconds=10).outcomes
    assert outcome.said.startswith("exit 3, D-05: the folder")
    assert "closed cannot be read: Permission denied" in outcome.said


def test_links_are_followed_once_and_broken_ones_are_told(tmp_path):
    fill(tmp_path / "set" / "a", 20)
    fill(tmp_path / "elsewhere", 4, start=100)
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to("../..")
    (tmp_path / "set" / "gone.png").symlink_to("nothing")
    (tmp_path / "set" / "x.png").symlink_to("y.png")
    (tmp_path / "set" / "y.png").symlink_to("x.png")
    data = open_data(str(tmp_path / "set"))
    assert data.found.num_pictures == 24
    assert dict(data.found.unreadable) == {
        "gone.png": "no such file or directory",
        "x.png": "too many levels of symbolic links",
        "y.png": "too many levels of symbolic links",
    }


ROWS = "000.png,cat\n001.png,dog\n"
GOOD_TABLES = {
    "plain": f"path,label\n{ROWS}".encode(),
    "byte order mark": b"\xef\xbb\xbf" + f"path,label\n{ROWS}".encode(),
    "carriage returns": f"path,label\n{ROWS}".replace("\n", "\r\n").encode(),
    "of an old Mac": f"path,label\n{ROWS}".replace("\n", "\r").encode(),
    "no last line end": f"path,label\n{ROWS}".rstrip().encode(),
    "empty lines": b"path,label\n\n000.png,cat\n\n\n001.png,dog\n\n",
    "quotes": b'"path","label"\n"000.png","cat"\n"001.png","dog"\n',
    "rows twice": f"path,label\n{ROWS}{ROWS}".encode(),
    "other columns": b"id,label,path\n7,cat,000.png\n8,dog,001.png\n",
    "blanks and capitals": b" Path , Label\n000.png , cat\n 001.png,dog \n",
    "dots": b"path,label\n./000.png,cat\n.//001.png,dog\n",
}
BAD_TABLES = {
    "semicolons": (b"path;label\n000.png;cat\n", "D-13", "line 1"),
    "tabs": (b"path\tlabel\n000.png\tcat\n", "D-13", "line 1"),
    "no header": (ROWS.encode(), "D-13", "line 1"),
    "nothing": (b"", "D-13", "line 1"),
    "no rows": (b"path,label\n", "D-02", "0 pictures"),
    "a comma too many": (b"path,label\n000.png,cat,3\n", "D-13", "row 2: 2 fields"),
    "a comma too few": (b"path,label\n\n000.png\n", "D-13", "row 3: 2 fields"),
    "no path": (b"path,label\n000.png,cat\n ,dog\n", "D-13", "row 3"),
    "an open quote": (b'path,label\n"000.png,cat\n001.png,dog\n', "D-13", "row 3"),
    "an endless field": (b'path,label\n"' + b"x" * (2**24 + 1) + b'",cat\n', "D-13", "row 2: field larger than"),
    "UTF-16": (f"path,label\n{ROWS}".encode("utf-16"), "D-13", "line 1: this is UTF-16"),
    "Latin-1 labels": ("path,label\n000.png,Käse\n".encode("latin-1"), "D-13", "row 2: this is not UTF-8"),
    "Latin-1 paths": ("path,label\n000.png,a\nKäse.png,b\n".encode("latin-1"), "D-13", "row 3: this is not UTF-8"),
    "two labels": (b"path,label\n000.png,cat\n./000.png,dog\n", "D-13", "rows 2 and 3"),
    "no number": (b"path,label\n000.png,3\n001.png,NaN\n", "D-12", "row 3: 'NaN'"),
    "negative": (b"path,label\n000.png,-1\n", "D-12", "row 2: '-1'"),
    "an unknown part": (b"path,split\n000.png,tests\n", "D-12", "Did you mean 'test'?"),
}


@pytest.mark.parametrize("kind", GOOD_TABLES)
def test_tables_of_many_writers_say_the_same(tmp_path, kind):
    fill(tmp_path, 2)
    (tmp_path / "t.csv").write_bytes(GOOD_TABLES[kind])
    data = open_data(str(tmp_path / "t.csv"))
    assert data.train.classes == ("cat", "dog")
    assert everything(data) == {"000.png": 0, "001.png": 1}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_tables_that_cannot_be_meant_are_refused_with_the_row(tmp_path, kind):
    fill(tmp_path, 2)
    data, code, says = BAD_TABLES[kind]
    (tmp_path / "t.csv").write_bytes(data)
    assert says in refused(tmp_path / "t.csv", code)


def test_names_with_a_zero_byte_and_folders_in_a_list_are_no_pictures(tmp_path):
    fill(tmp_path, 20)
    lines = [f"{k:03d}.png" for k in range(20)] + ["a\0b.png", "."]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    unreadable = dict(open_data(str(tmp_path / "list.txt")).found.unreadable)
    assert unreadable == {"a\0b.png": "no file can have this name", ".": "is a directory"}


def test_labels_of_two_kinds_are_noted(tmp_path):
    fill(tmp_path, 3)
    (tmp_path / "t.csv").write_text("path,label\n000.png,3\n001.png,cat\n002.png,\n")
    assert "labels are numbers and words, e.g. 3 and cat" in open_data(str(tmp_path / "t.csv")).found.notes


def test_pictures_that_are_tested_on_and_trained_on_are_counted(tmp_path):
    train = [*fill(tmp_path / "train" / "a", 20), *fill(tmp_path / "train" / "b", 20, start=50)]
    tests = [*fill(tmp_path / "test" / "a", 6, start=100), *fill(tmp_path / "test" / "b", 6, start=150)]
    assert not [note for note in open_data(str(tmp_path)).found.notes if "byte for byte" in note]
    for k in (1, 8, 9):
        tests[k].write_bytes(train[3 * k].read_bytes())
    # As long as another and with the same end, but not the same.
    other = bytearray(saved("BMP", picture(1, (300, 300))))
    (tmp_path / "train" / "a" / "x.bmp").write_bytes(other)
    other[100_000] ^= 1
    (tmp_path / "test" / "a" / "x.bmp").write_bytes(other)
    leaks = [note for note in open_data(str(tmp_path), holdout=0.2).found.notes if "byte for byte" in note]
    assert len(leaks) == 1 and "3 of 13 pictures for testing are in training too" in leaks[0]
    assert "test/a/101.png is train/a/003.png" in leaks[0]


def test_duplicates_that_are_held_out_are_counted(tmp_path):
    paths = fill(tmp_path, 60)
    for path in paths[1:30]:
        path.write_bytes(paths[0].read_bytes())
    data = open_data(str(tmp_path), holdout=0.5)
    twins = {path.name for path in paths[:30]}
    held_out = {data.held_out.name(i) for i in range(len(data.held_out))}
    assert held_out & twins and twins - held_out
    (leak,) = [note for note in data.found.notes if "byte for byte" in note]
    assert f"{len(held_out & twins)} of {len(held_out)} pictures held out" in leak


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets of more than 20 pictures count as large, so that what was seen of them is kept, in this folder."""
    monkeypatch.setattr(found, "MAX_CHECKED", 20)
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "looks"


def aged(*paths: Path) -> None:
    """As if last written to an hour ago."""
    for path in paths:
        os.utime(path, (time.time() - 3600,) * 2)


def opened(*paths: Path, by: Callable[[], object]) -> list[Path]:
    """Which of these files are opened while `by` runs."""
    names = {str(path): path for path in paths}
    seen: list[Path] = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching and str(arguments[0]) in names:
            seen.append(names[str(arguments[0])])

    watching = [True]
    sys.addaudithook(watch)
    by()
    watching.clear()
    return sorted(seen)


def test_files_of_a_large_set_are_opened_again_only_if_they_changed(tmp_path, large):
    paths = fill(tmp_path / "set", 40)
    aged(*paths[1:])
    first = open_data(str(tmp_path / "set"))
    paths[4].write_bytes(b"")
    saved_again = picture(4, (30, 20))
    saved_again.save(paths[5])
    paths[6].write_bytes(paths[6].read_bytes())  # as long as it was
    paths += [*fill(tmp_path / "set", 1, start=90)]
    again: list[Data] = []
    # The first was written a moment before it was looked at, and may have changed since at the same time.
    assert opened(*paths, by=lambda: again.append(open_data(str(tmp_path / "set")))) == [
        paths[k] for k in (0, 4, 5, 6, 40)
    ]
    (second,) = again
    assert second.found.unreadable == (("004.png", "empty file"),)
    assert second.found.sizes == {(12, 10): 39, (30, 20): 1} and first.found.sizes == {(12, 10): 40}
    assert list(large.iterdir()) and len(list(large.iterdir())) == 1
    for file in large.iterdir():
        file.unlink()
    assert open_data(str(tmp_path / "set")).fingerprint == second.fingerprint


def test_files_that_move_are_noted_again_by_what_is_remembered_of_them(tmp_path, large):
    paths = fill(tmp_path / "set", 40)
    for name in ("moving.gif", "moving.webp"):
        frames = [image(seed=1), image(seed=2)]
        paths.append(tmp_path / "set" / name)
        paths[-1].write_bytes(saved(name.split(".")[1].upper(), save_all=True, append_images=frames))
    aged(*paths)
    told = "2 files move or have pages: the first picture of each counts (moving.gif)"
    assert told in open_data(str(tmp_path / "set")).found.notes
    again: list[Data] = []
    assert opened(*paths, by=lambda: again.append(open_data(str(tmp_path / "set")))) == []
    assert told in again[0].found.notes


def fingerprint_at_once(data: Path, cache: Path, together: Any, answers: Any) -> None:
    """In a process of its own: open a set that counts as large, when all are ready to."""
    found.MAX_CHECKED = 20
    together.wait(60)
    answers.put(open_data(str(data), cache=cache).fingerprint)


@pytest.mark.slow
def test_six_processes_that_open_a_large_set_at_once_agree_and_leave_one_memory_of_it(tmp_path, large):
    paths = fill(tmp_path / "set", 60)
    aged(*paths)
    together, answers = FORKSERVER.Barrier(6), FORKSERVER.Queue()
    arguments = (tmp_path / "set", tmp_path / "cache", together, answers)
    processes = [FORKSERVER.Process(target=fingerprint_at_once, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    fingerprints = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert len(list(large.iterdir())) == 1 and not list(large.glob(".*"))
    again: list[Data] = []
    assert opened(*paths, by=lambda: again.append(open_data(str(tmp_path / "set")))) == []
    assert fingerprints == [again[0].fingerprint] * 6


@pytest.mark.parametrize("cause", [OSError, KeyboardInterrupt])
def test_a_memory_of_a_set_stays_whole_when_the_writing_of_the_next_is_cut_short(tmp_path, large, monkeypatch, cause):
    paths = fill(tmp_path / "set", 40)
    aged(*paths)
    open_data(str(tmp_path / "set"))
    (kept,) = large.iterdir()
    before = kept.read_bytes()
    (new,) = fill(tmp_path / "set", 1, start=90)
    aged(new)
    written: list[int] = []

    def cut_short(file: Any, **arrays: object) -> None:
        written.append(file.write(before[:500]))
        file.flush()
        raise cause

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez", cut_short)
        with suppress(KeyboardInterrupt):
            assert open_data(str(tmp_path / "set")).found.num_pictures == 41
    assert written == [500] and kept.read_bytes() == before
    if cause is OSError:
        assert list(large.iterdir()) == [kept]
    assert opened(*paths, new, by=lambda: open_data(str(tmp_path / "set"))) == [new]


def test_a_user_without_a_home_can_open_a_large_set(tmp_path, large, monkeypatch):
    fill(tmp_path / "set", 40)
    for name in ("TUTELAGE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # as in a container that runs as an unknown user
    with pytest.raises(RuntimeError):
        Path.home()
    assert open_data(str(tmp_path / "set")).found.num_pictures == 40


@pytest.mark.parametrize("spoil", ["cut", "emptied", "exchanged", "forbidden"])
def test_a_spoiled_memory_of_a_set_costs_nothing_but_time(tmp_path, large, spoil):
    paths = fill(tmp_path / "set", 40)
    aged(*paths)
    first = open_data(str(tmp_path / "set"))
    (kept,) = large.iterdir()
    if spoil == "forbidden":
        kept.unlink()
        large.rmdir()
        large.write_text("a file in the way")
    else:
        data = kept.read_bytes()
        kept.write_bytes({"cut": data[: len(data) // 2], "emptied": b"", "exchanged": b"\x80\x04N."}[spoil])
    again: list[Data] = []
    assert opened(*paths, by=lambda: again.append(open_data(str(tmp_path / "set")))) == paths
    assert again[0].fingerprint == first.fingerprint and again[0].found == first.found


def test_a_great_folder_is_opened_in_bounded_time_and_memory(tmp_path, amount, figure, large):
    count = amount(2000, 20_000, 200_000)
    fill(tmp_path / "few", 10)
    (tmp_path / "many").mkdir()
    data = saved("PNG", picture(0, (8, 8)))
    for k in range(count):
        path = tmp_path / "many" / f"{k:07d}.png"
        path.write_bytes(data + k.to_bytes(4, "little"))
        aged(path)

    def count_in(folder: Path) -> str:
        return str(open_data(str(folder), holdout=0.1).found.num_pictures)

    few, *many = (
        in_children([tmp_path / name], count_in, seconds=600, memory=2**33) for name in ("few", "many", "many")
    )
    assert [trial.outcomes[0].said for trial in many] == [str(count)] * 2
    seconds = [trial.outcomes[0].seconds for trial in many]
    memory = many[0].peak_bytes - few.peak_bytes
    assert memory < 2000 * count + 2**26
    assert seconds[1] < 0.7 * seconds[0] < 5e-3 * count
    figure(
        "200,000 pictures in a folder are opened",
        f"{count:,} pictures: {seconds[0]:.1f} s of one core, again {seconds[1]:.1f} s, +{memory / 2**20:.0f} MiB",
    )

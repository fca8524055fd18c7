"""Manifests and headers written to do harm, by one who knows how they are hashed and sealed (C9, C10)."""

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashes import in_a_child
from states import forged, rewritten, saved
from tests.evaluation.small import same, small_vit, write_run

from tutelage.engine.checkpoint import load_newest
from tutelage.engine.snapshot import MANIFEST, MODEL
from tutelage.errors import CheckpointError
from tutelage.transfer import load_encoder

NAMES = [
    "../model.safetensors",
    "/etc/passwd",
    "..",
    "",
    "a/b.safetensors",
    "model.safetensors\0",
    "\u202emodel",
    "~/x",
]
LIES: list[Callable[[dict[str, Any]], Any]] = [
    *(lambda v, name=name: v["files"].update({name: v["files"].pop(MODEL)}) for name in NAMES),
    *(lambda v, name=name: v["files"].update({name: dict(v["files"][MODEL])}) for name in NAMES),
    lambda v: v.update(files=[]),
    lambda v: v.update(files={}),
    lambda v: v["files"].update({MODEL: "x"}),
    lambda v: v["files"][MODEL].update(size=-1),
    lambda v: v["files"][MODEL].update(size=2**70),
    lambda v: v["files"][MODEL].update(size="12"),
    lambda v: v["files"][MODEL].update(sha256=5),
    lambda v: v.update(step="8"),
    lambda v: v.update(step=8.0),
    lambda v: v.update(step=True),
    lambda v: v.update(step=-8),
    lambda v: v.update(updates=None),
    lambda v: v.update(format="2"),
    lambda v: v.update(format=None),
    lambda v: v.pop("fingerprint"),
    lambda v: v.update(links={"digest": 1}),
    lambda v: v.update(more=1),
    lambda v: v.update(guard=[1]),
    lambda v: v.update(__class__="os.system"),
]


@pytest.mark.parametrize("number", range(len(LIES)))
def test_a_manifest_that_lies_is_refused_although_its_seal_is_right(tmp_path: Path, number: int) -> None:
    older, newest = saved(tmp_path, 7, 8)
    rewritten(newest, LIES[number])
    found, wrong = load_newest(tmp_path)
    assert found is not None and found.path == older and len(wrong) == 1


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{" * 100_000, b'{"a":' * 100_000, b" " * 2_000_000, b"9" * 9999, b"\xff\xfe"]
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    older, newest = saved(tmp_path, 7, 8)
    (newest / MANIFEST).write_bytes(text)
    found, wrong = load_newest(tmp_path)
    assert found is not None and found.path == older and len(wrong) == 1


def header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(start: int, end: int, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = [
    b"",
    b"\0" * 7,
    *(header({}, length=n) for n in (2**63, 2**64 - 1, 2**32, 101_000_000, 3, 0)),
    header(b"x" * 64),
    header(b'{"a":' * 50_000),
    header([]),
    header({"a": tensor(0, 16), "b": tensor(8, 24)}, bytes(24)),  # overlap
    header({"a": tensor(0, 16), "b": tensor(20, 36)}, bytes(36)),  # gap
    header({"a": tensor(4, 20)}, bytes(20)),
    header({"a": tensor(0, 16)}, bytes(20)),  # more behind
    header({"a": tensor(0, 16)}, bytes(12)),  # less
    header(b'{"a":%b,"a":%b}' % (json.dumps(tensor(0, 16)).encode(), json.dumps(tensor(0, 16)).encode()), bytes(16)),
    header({"a": tensor(0, 16, [2**31, 2**31])}, bytes(16)),
    header({"a": tensor(0, 16, [2**62, 4])}, bytes(16)),
    header({"a": tensor(0, 2**62)}, bytes(16)),
    header({"a": tensor(0, -16)}, bytes(16)),
    header({"a": tensor(16, 0)}, bytes(16)),
    header({"a": tensor(0, 16, [-4])}, bytes(16)),
    header({"a": tensor(0, 16, [4.0])}, bytes(16)),
    header({"a": tensor(0, 16, "4")}, bytes(16)),
    header({"a": tensor(0, 16, [True, 4])}, bytes(16)),
    header({"a": tensor(0, 16, dtype="F64")}, bytes(16)),
    header({"a": tensor(0, 16, dtype="O")}, bytes(16)),
    header({"a": tensor(0, 16, dtype=None)}, bytes(16)),
    header({"a": {"dtype": "F32", "shape": [4]}}, bytes(16)),
    header({"a": [1]}, bytes(16)),
    header({"a": None}, bytes(16)),
    header({f"a{i}": tensor(0, 16) for i in range(1000)}, bytes(16)),
    header({"a": tensor(0, 16) | {"data_offsets": [0, 16, 32]}}, bytes(16)),
    header({"a": tensor(0, 16) | {"data_offsets": [0.0, 16.0]}}, bytes(16)),
]


def test_headers_that_lie_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    """C9, written by one who can hash and seal: the manifest is right about the file."""
    for number, data in enumerate(HEADERS):
        _, newest = saved(tmp_path / str(number), 7, 8)
        forged(newest, data)

    def read_all() -> None:
        load_newest(tmp_path / "0")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number, data in enumerate(HEADERS):
            found, wrong = load_newest(tmp_path / str(number))
            assert found is not None and found.step == 7 and len(wrong) == 1, data[:80]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"

    assert in_a_child(read_all) == 0


def test_headers_that_lie_are_refused_before_memory_is_taken_by_who_reads_an_encoder(tmp_path: Path) -> None:
    """C9, the other reader of a run's checkpoints: for evaluation, export and as a start."""
    checkpoint = write_run(tmp_path / "run", small_vit(), small_vit())
    assert same(load_encoder(str(checkpoint)).vit, small_vit())

    def read_all() -> None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for data in HEADERS:
            forged(checkpoint, data)
            for place in (checkpoint, tmp_path / "run"):
                with pytest.raises(CheckpointError, match="^K-10") as refused:
                    load_encoder(str(place))
                assert refused.value.exit_code == 4 and len(str(refused.value)) < 1000, data[:80]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"

    assert in_a_child(read_all) == 0


def a_link(file: Path) -> None:
    """To the very same contents."""
    file.rename(file.parents[3] / "aside")
    file.symlink_to(file.parents[3] / "aside")


def a_pipe(file: Path) -> None:
    """Whoever opens it waits for ever."""
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize("kind", [a_link, a_pipe])
def test_weights_that_are_no_regular_file_are_no_encoder(tmp_path: Path, kind: Callable[[Path], None]) -> None:
    """C10."""
    checkpoint = write_run(tmp_path / "run", small_vit(), small_vit())
    kind(checkpoint / MODEL)

    def read() -> None:
        for place in (checkpoint, tmp_path / "run"):
            with pytest.raises(CheckpointError, match=r"^K-10: .*model\.safetensors is"):
                load_encoder(str(place))

    assert in_a_child(read, limit=10) == 0

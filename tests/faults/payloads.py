"""Inputs that would do harm where they are trusted: pickles, headers of tensors, names."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

NAMES = (
    "<img src=x onerror=alert(1)>.jpg", "</script><script>alert(1)</script>", '"><svg onload=alert(1)>',
    "</style><style>*{display:none}</style>", "{{ 7 * 7 }}{% include 'x' %}", "'-alert(1)-'", "javascript:alert(1)",
    "\u202egpj.exe", "a\x00b\x1b[31m", "\udcff.png", "&lt;b&gt;", "$\\frac{1}{", "<script src=//evil.example/x.js></script>",
    "<iframe srcdoc='<script>alert(1)</script>'>", "<a href=javascript:alert(1)>x</a>", "<body onload=alert(1)>",
    "<math><mi xlink:href='data:x,<script>alert(1)</script>'>", "<!--<img src=--><img src=x onerror=alert(1)//>",
    "<![CDATA[<script>alert(1)</script>]]>", "</title><script>alert(1)</script>", "</textarea><script>alert(1)</script>",
    "<meta http-equiv=refresh content='0;url=//evil.example'>", "<link rel=stylesheet href=//evil.example/x.css>",
    "<base href=//evil.example/>", "<form action=//evil.example><input name=x>", "<object data=data:text/html;base64,PHN2Zz4=>",
    "<embed src=x>", "<details open ontoggle=alert(1)>", "<video><source onerror=alert(1)>", "<svg><animate onbegin=alert(1)>",
    "' onmouseover='alert(1)", '" onfocus="alert(1)" autofocus="', "` onclick=`alert(1)", "x onerror=alert(1) y",
    "<\x00script>alert(1)</script>", "＜script＞alert(1)＜/script＞", "<scr<script>ipt>alert(1)</scr</script>ipt>",
    "\r\n\r\n<script>alert(1)</script>", "\u2028<script>alert(1)</script>\u2029", "\x85\x9b31m", "\x07\x08\x7f",
    "%3Cscript%3Ealert(1)%3C/script%3E", "&#60;script&#62;", "\\u003cscript\\u003e", "{%raw%}{{x}}{%endraw%}", "{#", "${7*7}",
    "<bdi></bdi></code></td><td>", "=cmd|'/C calc'!A0", "\ufeff<b>", "expression(alert(1))", "A" * 20_000,
)  # fmt: skip


class Call:
    """Unpickled, it calls `function` with `arguments`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touch(canary: str) -> str:
    """Python source that makes the canary sing."""
    return f"open({canary!r}, 'w').close()"


def calls(canary: Path) -> dict[str, Call]:
    """Ways of a pickle to touch the canary, by name; each does so when it is unpickled without care."""
    import builtins
    import runpy
    import shutil
    import subprocess

    name, source = str(canary), canary.parent / "source"
    source.write_text(touch(name))
    return {
        "touch": Call(Path.touch, canary),
        "open": Call(open, name, "w"),
        "os.system": Call(os.system, f"touch {name}"),
        "os.mkdir": Call(os.mkdir, name),
        "os.symlink": Call(os.symlink, "x", name),
        "os.open": Call(os.open, name, os.O_CREAT | os.O_WRONLY),
        "subprocess": Call(subprocess.check_call, ["touch", name]),
        "popen": Call(subprocess.getoutput, f"touch {name}"),
        "eval": Call(builtins.eval, touch(name)),
        "exec": Call(builtins.exec, touch(name)),
        "runpy": Call(runpy.run_path, str(source)),
        "copy": Call(shutil.copyfile, str(source), name),
        "torch.save": Call(torch.save, torch.zeros(1), name),
        "numpy.save": Call(np.savetxt, name, np.zeros(1)),
    }


def pickles(canary: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, suffix and content of files that touch the canary where they are unpickled without care."""
    for way, call in calls(canary).items():
        for protocol in (0, 2, 4):
            yield f"{way}, pickle {protocol}", ".bin", pickle.dumps(call, protocol=protocol)
        nested = {"model": {"patch_embed.proj.weight": torch.ones(2, 3, 4, 4)}, "args": call}
        for new in (True, False):
            file = io.BytesIO()
            torch.save(nested, file, _use_new_zipfile_serialization=new)
            yield f"{way}, torch {'zip' if new else 'legacy'}", ".pth", file.getvalue()
    for way in ("open", "os.mkdir", "eval"):
        file = io.BytesIO()
        np.save(file, np.array([calls(canary)[way]], dtype=object), allow_pickle=True)
        yield f"{way}, npy", ".npy", file.getvalue()


def header(entries: str | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file of this header, whose length may lie."""
    text = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def headers() -> Iterator[tuple[str, bytes]]:
    """Safetensors files whose header and data do not agree, by name."""
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    two = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}
    eight, sixteen = bytes(8), bytes(16)
    for length in (2**63, 2**64 - 1, 2**31, 10_000_001, 0, 1, 100):
        yield f"length {length}", header({"a": one}, eight, length)
    yield "overlap", header({"a": one, "b": {**two, "data_offsets": [4, 12]}}, bytes(12))
    yield "the same bytes twice", header({"a": one, "b": one}, eight)
    yield "gap", header({"a": one, "b": {**two, "data_offsets": [16, 24]}}, bytes(24))
    yield "gap in front", header({"b": two}, sixteen)
    yield "data beyond", header({"a": one}, sixteen)
    yield "data cut off", header({"a": one}, bytes(7))
    yield "name twice", header(f'{{"a": {json.dumps(one)}, "a": {json.dumps(one)}}}', eight)
    yield "key twice", header('{"a": {"dtype": "F32", "shape": [2], "shape": [2], "data_offsets": [0, 8]}}', eight)
    for shape in (
        [3],
        [1],
        [2, 2],
        [-2],
        [-1, -2],
        [2.0],
        ["2"],
        None,
        [True, 2],
        [2**62, 4],
        [2**32, 2**32],
        "2",
        {},
        [[2]],
    ):
        yield f"shape {shape}", header({"a": {**one, "shape": shape}}, eight)
    for dtype in ("F64", "F16", "", None, 4, "PICKLE", "f32", ["F32"]):
        yield f"dtype {dtype}", header({"a": {**one, "dtype": dtype}}, eight)
    for offsets in ([8, 0], [-8, 0], [0, 2**63], [0], [0, 8, 8], None, "08", [0.0, 8.0], [0, "8"], [False, 8]):
        yield f"offsets {offsets}", header({"a": {**one, "data_offsets": offsets}}, eight)
    for entry in (None, 3, [], "x", {}, {**one, "shape": None}):
        yield f"entry {entry}", header({"a": entry}, eight)
    for text in ("[]", "null", "{", "[" * 100_000, '{"a":' * 100_000, "\x00\x00", "NaN", '{"a": NaN}', "\xff\xfe"):
        yield f"text {text[:8]!r}", header(text, eight)
    yield (
        "a million axes",
        header('{"a": {"dtype": "F32", "shape": [' + "9," * 1_000_000 + '9], "data_offsets": [0, 8]}}', eight),
    )
    many = ", ".join(f'"{i}": 0' for i in [*range(400_000), 0])
    yield "a name twice among many", header(f"{{{many}}}", eight)
    yield "100 MB header", struct.pack("<Q", 100_000_000) + b'{"__metadata__": {"x": "' + b"x" * 100_000_000 + b'"}}'


def damaged_zips(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Torch files that lie about themselves, made of a good one."""
    names = zipfile.ZipFile(io.BytesIO(whole)).namelist()
    top, largest = names[0].split("/")[0], next(name for name in names if "/data/" in name)
    for name, record, content in (
        ("a record outside", "../../canary", b"x"),
        ("an absolute record", "/tmp/canary", b"x"),
        ("a record that climbs", f"{top}/../../canary", b"x"),
        ("a second pickle", f"{top}/data.pkl", pickle.dumps(Call(os.mkdir, "canary"))),
    ):
        file = io.BytesIO(whole)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(record, content)
        yield name, file.getvalue()
    bomb = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in names:
            new.writestr(entry, bytes(300_000_000) if entry == largest else old.read(entry))
    yield "a bomb", bomb.getvalue()
    file = io.BytesIO()
    torch.save({"model": {"patch_embed.proj.weight": torch.ones(1).expand(10_000, 10_000, 10, 10)}}, file)
    yield "one number as 40 GB", file.getvalue()

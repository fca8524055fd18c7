"""Small pictures of every format, ways to spoil them, and a child process that a decoder may take down with it."""

import faulthandler
import os
import resource
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
"""Says that the picture is to be turned by 90 degrees."""


def image(mode: str = "RGB", size: tuple[int, int] = (29, 23), seed: int = 0) -> Image.Image:
    """Noise over a slope, width x height."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(20, 160, size[0])[None, :, None]
    pixels = (slope + rng.integers(0, 90, (size[1], size[0], 4))).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32) / 255)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def saved(kind: str, picture: Image.Image | None = None, **options: object) -> bytes:
    """The bytes of a picture in a format."""
    buffer = BytesIO()
    (picture or image()).save(buffer, format=kind, **options)
    return buffer.getvalue()


def array(values: np.ndarray) -> bytes:
    """The bytes of an .npy file."""
    buffer = BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes = bytes(1000), colour: int = 2, *extra: bytes) -> bytes:
    """A PNG by hand: its header may lie."""
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def tiff(width: int, height: int, channels: int, data: bytes, bits: int = 8) -> bytes:
    """A TIFF of one strip by hand: its header may lie."""
    table = struct.pack(f"<{channels}H", *[bits] * channels)
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 0), (259, 3, 1, 1), (262, 3, 1, 1)]
    entries += [(273, 4, 1, 0), (277, 3, 1, channels), (278, 4, 1, height), (279, 4, 1, len(data)), (284, 3, 1, 1)]
    start = 8 + 2 + 12 * len(entries) + 4
    entries[2] = (258, 3, channels, bits if channels == 1 else start)
    entries[5] = (273, 4, 1, start + len(table))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + table + data


def seeds() -> dict[str, bytes]:
    """Whole files of every kind that is opened, by name."""
    frames = {"save_all": True, "append_images": [image(seed=k) for k in (1, 2)]}
    palette = image().convert("P")
    files = {
        "plain.jpg": saved("JPEG"),
        "progressive.jpg": saved("JPEG", progressive=True),
        "turned.jpg": saved("JPEG", exif=EXIF, icc_profile=bytes(300)),
        "grey.jpg": saved("JPEG", image("L")),
        "inks.jpg": saved("JPEG", image("CMYK")),
        "plain.png": saved("PNG"),
        "turned.png": saved("PNG", exif=EXIF),
        "alpha.png": saved("PNG", image("RGBA")),
        "grey_alpha.png": saved("PNG", image("LA")),
        "palette.png": saved("PNG", palette, transparency=3),
        "deep.png": saved("PNG", image("I;16")),
        "bits.png": saved("PNG", image("1")),
        "moving.png": saved("PNG", **frames),
        "plain.gif": saved("GIF", palette),
        "moving.gif": saved("GIF", image(), **frames),
        "lossy.webp": saved("WEBP"),
        "lossless.webp": saved("WEBP", image("RGBA"), lossless=True),
        "moving.webp": saved("WEBP", image(), **frames),
        "plain.bmp": saved("BMP"),
        "palette.bmp": saved("BMP", palette),
        "plain.tif": saved("TIFF"),
        "deep.tif": saved("TIFF", image("I;16")),
        "float.tif": saved("TIFF", image("F")),
        "inks.tif": saved("TIFF", image("CMYK")),
        "pages.tif": saved("TIFF", image(), **frames),
        "six.tif": tiff(9, 7, 6, bytes(range(256)) * 2),
        "plain.npy": array(np.asarray(image())),
        "float.npy": array(np.linspace(0, 1, 9 * 8 * 5).reshape(9, 8, 5)),
    }
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        picture = image("1") if compression == "group4" else image()
        files[f"{compression}.tif"] = saved("TIFF", picture, compression=compression)
    return files


def truncate(rng: np.random.Generator, data: bytes) -> bytes:
    """The beginning of the file."""
    return data[: rng.integers(len(data))]


def flip_bits(rng: np.random.Generator, data: bytes) -> bytes:
    """One to eight bits turned over."""
    spoiled = bytearray(data)
    for at in rng.integers(0, 8 * len(data), rng.integers(1, 9)):
        spoiled[at // 8] ^= 1 << (at % 8)
    return bytes(spoiled)


def lie(rng: np.random.Generator, data: bytes) -> bytes:
    """A huge, zero or negative number where the header may keep a length or a size."""
    at = int(rng.integers(min(len(data), 200)))
    number = int(rng.choice([0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x3FFFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
    width = 4 if number > 0xFFFF else int(rng.choice([1, 2, 4])) if number < 0x100 else int(rng.choice([2, 4]))
    written = number.to_bytes(width, str(rng.choice(["big", "little"])))
    return data[:at] + written + data[at + width :]


def splice(rng: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    return data[: rng.integers(len(data))] + other[rng.integers(len(other)) :]


def shuffle(rng: np.random.Generator, data: bytes) -> bytes:
    """A span taken out, doubled, or moved elsewhere."""
    start, end = sorted(rng.integers(0, len(data), 2).tolist())
    span, rest = data[start:end], data[:start] + data[end:]
    at = int(rng.integers(len(rest) + 1))
    return [rest, data[:end] + data[start:], rest[:at] + span + rest[at:]][rng.integers(3)]


def shuffle_chunks(rng: np.random.Generator, data: bytes) -> bytes:
    """A PNG's chunks left out, doubled or in another order; other files as `shuffle` has them."""
    if not data.startswith(b"\x89PNG"):
        return shuffle(rng, data)
    chunks = list(_chunks(data))
    return data[:8] + b"".join(chunks[k] for k in rng.integers(0, len(chunks), len(chunks)))


def mended(data: bytes) -> bytes:
    """With right checksums, so that what is spoiled in a PNG comes to the decoder."""
    if not data.startswith(b"\x89PNG"):
        return data
    return data[:8] + b"".join(chunk(c[4:8], c[8:-4]) for c in _chunks(data) if len(c) >= 12)


def mutated(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`count` spoiled files, the same for the same seed, with names that tell how they were made."""
    rng = np.random.default_rng(seed)
    files = list(seeds().items())
    alone = (truncate, flip_bits, flip_bits, lie, lie, shuffle, shuffle_chunks)
    for k in range(count):
        name, data = files[k % len(files)]
        made = []
        for _ in range(int(rng.integers(1, 4))):
            how = rng.integers(len(alone) + 1)
            if how == len(alone):
                data, way = splice(rng, data, files[rng.integers(len(files))][1]), "splice"
            else:
                data, way = alone[how](rng, data), alone[how].__name__
            made.append(way)
            data = data or b"\0"
        if rng.integers(2):
            data = mended(data)
        stem, suffix = name.split(".")
        yield f"{k:05d}-{stem}-{'-'.join(made)}.{suffix}", data


class Outcome(NamedTuple):
    """What became of a file."""

    path: Path
    said: str
    """What the work returned, "hang", or "crash" with the signal or exit code."""
    seconds: float


class Trial(NamedTuple):
    """What became of all files, and the largest resident memory of a child."""

    outcomes: list[Outcome]
    peak_bytes: int


def in_children(
    paths: Sequence[Path], work: Callable[[Path], str], *, seconds: float = 2.0, memory: int = 2**30, at_once: int = 200
) -> Trial:
    """`work` of every path in child processes of limited memory; a child that hangs or dies costs one file, and is told.

    Seconds are of the processor, so that a busy machine hangs nothing; work that waits has ten times as many.
    """
    outcomes: list[Outcome] = []
    peak = 0
    while len(outcomes) < len(paths):
        left = paths[len(outcomes) : len(outcomes) + at_once]
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _work_off(left, work, writing, seconds, memory)
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as answers:
            for path, answer in zip(left, answers, strict=False):
                took, said = answer.rstrip("\n").split(" ", 1)
                outcomes.append(Outcome(path, said, float(took)))
        _, status, usage = os.wait4(child, 0)
        peak = max(peak, usage.ru_maxrss * 1024)
        if status:
            culprit = paths[len(outcomes)]
            hang = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
            outcomes.append(Outcome(culprit, "hang" if hang else f"crash {status}", seconds))
    return Trial(outcomes, peak)


def _work_off(paths: Sequence[Path], work: Callable[[Path], str], writing: int, seconds: float, memory: int) -> None:
    """In the child: never returns. The alarms are not caught, so that they also end a decoder that hangs in C."""
    try:
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries complain there
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for path in paths:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
            start = time.process_time()
            said = " ".join(work(path).split())
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.write(writing, f"{time.process_time() - start:.6f} {said}\n".encode())
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(1)


def _chunks(data: bytes) -> Iterator[bytes]:
    """The chunks of a PNG, the last perhaps cut short."""
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        yield data[at:end]
        at = end

"""Small generated pictures for the tests of the data package."""

import os
from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (12, 10), channels: int = 3) -> Image.Image:
    """Noise over a slope, height x width."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(40, 200, size[1])[None, :, None]
    pixels = (slope + rng.integers(-40, 40, (*size, channels))).astype(np.uint8)
    return Image.fromarray(pixels if channels > 1 else pixels[..., 0])


def fill(folder: Path, count: int, suffix: str = ".png", start: int = 0, channels: int = 3) -> list[Path]:
    """`count` pictures in a folder, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:03d}{suffix}" for k in range(start, start + count)]
    for k, path in enumerate(paths, start=start):
        picture(k + 1000 * len(str(folder)), channels=channels).save(path)
    return paths


def damage(path: Path) -> None:
    """Overwrite the middle of a file with zeros, as a failing disk would: length, ends and times stay the same."""
    status = path.stat()
    data = path.read_bytes()
    start, end = len(data) // 2, len(data) - 32
    path.write_bytes(data[:start] + bytes(end - start) + data[end:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

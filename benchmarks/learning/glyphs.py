"""Glyphs: 100,006 pictures of 62 characters (0-9, A-Z, a-z) at 28 px, from the TrueType fonts of Debian packages.

    .venv/bin/python benchmarks/learning/glyphs.py OUT

1,450 training and 163 test pictures of each character. No typeface is in both parts: fonts are divided by the first word
of their family's name. Each picture is a font's character with its size (85 to 110 %), tilt (up to 8 degrees) and place (up
to 1.5 pixels) drawn from a seed, so the same fonts give the same bytes. OUT gets the four idx files, which `--data OUT`
reads, and fonts.json: the packages with their versions, and the fonts of each part. Packages come through `apt-get
download`, are unpacked in OUT/packages, and nothing is installed. Harder than Fashion-MNIST for pixels: thick, thin,
slanted and decorated shapes of one character lie far apart.
"""

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from fontTools.ttLib import TTFont, TTLibError
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SIZE, SCALE = 28, 4
"""Pixels a side, and how much finer a glyph is drawn before it is made smaller."""
HEIGHT, WIDTH = 22, 26
"""Pixels that the tallest reach of the 62 characters, and the widest of them, take."""
PER_CLASS = {"train": 1_450, "t10k": 163}
TEST_SHARE = 0.15
LIKENESS = 0.5
"""Mean correlation with the reference font that a font must have: less are dingbats, barcodes and other scripts."""
REFERENCE = "DejaVuSans.ttf"
PACKAGES = (Path(__file__).parent / "font_packages.txt").read_text().split()


class Font(NamedTuple):
    """A font with the size at which its characters fit."""

    path: Path
    family: str
    pixels: int
    top: float
    """Middle of the tallest reach above the baseline's zero, in fine pixels."""

    @property
    def group(self) -> str:
        """What is never divided: the first word of the family's name."""
        return self.family.split()[0].lower()

    @property
    def part(self) -> str:
        """`train` or `t10k`, by a hash of the group."""
        share = int.from_bytes(hashlib.sha256(self.group.encode()).digest()[:4], "big") / 2**32
        return "t10k" if share < TEST_SHARE else "train"


def fetch(folder: Path) -> dict[str, str]:
    """Unpack each package into `folder`, once; its version by its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not list(folder.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True)
    versions = {}
    for deb in sorted(folder.glob("*.deb")):
        name, version, _ = deb.stem.split("_")
        versions[name] = version
        if not (folder / name).exists():
            subprocess.run(["dpkg", "-x", deb, folder / name], check=True)
    return versions


def usable(path: Path, reference: NDArray[np.float32] | None) -> Font | None:
    """The font, if it has 62 characters that look like characters, and capitals that differ from small letters."""
    try:
        with TTFont(path, lazy=True, fontNumber=0) as file:
            known = file.getBestCmap() or {}
            family = file["name"].getBestFamilyName() or path.stem
        if not all(ord(character) in known for character in CHARACTERS):
            return None
        font = fitted(path, family)
    except (TTLibError, OSError, KeyError, AssertionError, ValueError, struct.error):
        return None
    if font is None:
        return None
    shapes = sheet(font)
    if reference is not None and correlation(shapes, reference) < LIKENESS:
        return None
    pairs = [(CHARACTERS.index(c), CHARACTERS.index(c.upper())) for c in "abdeghnqrt"]
    if any(correlation(shapes[[small]], shapes[[big]]) > 0.97 for small, big in pairs):
        return None
    return font


def fitted(path: Path, family: str) -> Font | None:
    """The font at the size at which its characters just fit."""
    probe = ImageFont.truetype(str(path), 100)
    boxes = np.array([probe.getbbox(character, anchor="ls") for character in CHARACTERS], dtype=float)
    left, top, right, bottom = boxes.T
    if (right - left).min() < 1 or (bottom - top).min() < 1:
        return None
    reach, widest = bottom.max() - top.min(), (right - left).max()
    pixels = int(100 * SCALE * min(HEIGHT / reach, WIDTH / widest))
    return Font(path, family, pixels, (top.min() + bottom.max()) / 2 * pixels / 100) if pixels >= 8 else None


def draw(
    font: Font, character: str, size: float = 1.0, tilt: float = 0.0, shift: tuple[float, float] = (0, 0)
) -> Image.Image:
    """A character, white on black; `tilt` in degrees, `shift` in pixels."""
    side = SIZE * SCALE
    face = ImageFont.truetype(str(font.path), max(1, round(font.pixels * size)))
    left, _, right, _ = face.getbbox(character, anchor="ls")
    picture = Image.new("L", (side, side))
    x = side / 2 - (left + right) / 2 + shift[0] * SCALE
    y = side / 2 - font.top * size + shift[1] * SCALE
    ImageDraw.Draw(picture).text((x, y), character, fill=255, font=face, anchor="ls")
    return picture.rotate(tilt, Image.Resampling.BILINEAR).resize((SIZE, SIZE), Image.Resampling.BOX)


def sheet(font: Font) -> NDArray[np.float32]:
    """All characters, plain: [62, 28, 28]."""
    return np.stack([np.asarray(draw(font, character), dtype=np.float32) for character in CHARACTERS])


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Mean correlation of the pictures of two stacks."""
    x, y = (v.reshape(len(v), -1) - v.reshape(len(v), -1).mean(1, keepdims=True) for v in (a, b))
    return float(((x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1) + 1e-6)).mean())


def render(fonts: list[Font], per_class: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`per_class` pictures of each character, the fonts in turn, and their classes, in an order drawn from the seed."""
    rng = np.random.default_rng(seed)
    pictures = np.empty((len(CHARACTERS) * per_class, SIZE, SIZE), dtype=np.uint8)
    labels = np.repeat(np.arange(len(CHARACTERS), dtype=np.uint8), per_class)
    for i, label in enumerate(labels):
        font = fonts[i % per_class % len(fonts)]
        size, tilt, shift = rng.uniform(0.85, 1.1), rng.uniform(-8, 8), rng.uniform(-1.5, 1.5, 2)
        pictures[i] = np.asarray(draw(font, CHARACTERS[label], size, tilt, (shift[0], shift[1])))
    order = rng.permutation(len(labels))
    return pictures[order], labels[order]


def idx(values: NDArray[np.uint8]) -> bytes:
    """An idx file of bytes."""
    return b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def make(out: Path) -> None:
    """Fetch, choose, draw and write."""
    versions = fetch(out / "packages")
    files = sorted((out / "packages").glob("**/*.ttf"))
    reference = sheet(next(font for path in files if path.name == REFERENCE and (font := usable(path, None))))
    chosen = {(font.family, font.path.name): font for path in files if (font := usable(path, reference))}
    fonts = sorted(chosen.values(), key=lambda font: (font.family, font.path.name))
    record = {"packages": versions, "fonts": {}}
    for part, per_class in PER_CLASS.items():
        own = [font for font in fonts if font.part == part]
        record["fonts"][part] = [f"{font.family}: {font.path.name}" for font in own]
        pictures, labels = render(own, per_class, seed=len(part))
        (out / f"{part}-images-idx3-ubyte").write_bytes(idx(pictures))
        (out / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
        print(f"{part}: {len(labels):,} pictures from {len(own)} fonts of {len({f.group for f in own})} typefaces")
    (out / "fonts.json").write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))

"""A sheet of paper: rows of pictures under a title and a note, as one image."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

MARGIN, GAP, BLOCK_GAP, NAMES = 36, 10, 40, 130
INK, QUIET, GOOD, BAD = "#1c1c1c", "#6f6f6f", "#1a7a46", "#b3402f"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Cell(NamedTuple):
    """A picture on a sheet, with a line below it."""

    image: Image.Image
    caption: str = ""
    ink: str = QUIET


def sheet(
    title: str,
    note: str,
    rows: Sequence[Sequence[Cell]],
    headings: Sequence[str] = (),
    *,
    names: Sequence[str] = (),
    block: int = 0,
    legend: Mapping[str, tuple[int, int, int]] | None = None,
) -> Image.Image:
    """Rows of pictures on white, under a title, a note, a legend of colours and headings; `names` stand left of the rows.

    A wider gap follows every `block` columns: by default as many as there are headings, which stand over each block.
    """
    tile_w, tile_h = (max((cell.image.size[i] for row in rows for cell in row), default=1) for i in (0, 1))
    lefts = _lefts(max((len(row) for row in rows), default=1), tile_w, block or len(headings), NAMES if names else 0)
    width = max(lefts[-1] + tile_w + MARGIN, 640)
    lines = _wrap(note, _font(15), width - 2 * MARGIN)
    swatches = _placed(legend or {}, MARGIN + 40 + 21 * len(lines), width - MARGIN)
    top = (swatches[-1][1] + 24 if swatches else MARGIN + 40 + 21 * len(lines)) + (46 if headings else 22)
    step = tile_h + (30 if any(cell.caption for row in rows for cell in row) else GAP)

    page = Image.new("RGB", (width, top + step * len(rows) - GAP + MARGIN), "white")
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, MARGIN - 6), title, INK, _font(24))
    for i, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 34 + 21 * i), line, QUIET, _font(15))
    for x, y, name, colour in swatches:
        draw.rectangle((x, y + 3, x + 14, y + 17), colour)
        draw.text((x + 20, y), name, INK, _font(15))
    for i, x in enumerate(lefts[: len(headings)] if block else lefts if headings else []):
        draw.text((x, top - 24), headings[i % len(headings)], INK, _font(15))
    for r, row in enumerate(rows):
        y = top + step * r
        if names:
            draw.multiline_text((MARGIN, y + tile_h // 2), names[r], INK, _font(15), anchor="lm", spacing=6)
        for cell, x in zip(row, lefts, strict=False):
            page.paste(cell.image, (x, y))
            draw.text((x, y + tile_h + 4), _fit(cell.caption, _font(14), tile_w), cell.ink, _font(14))
    return page


def _placed(
    legend: Mapping[str, tuple[int, int, int]], top: int, right: int
) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Left and top of each colour's square, in lines that end before `right`."""
    found, x, y = [], MARGIN, top
    for name, colour in legend.items():
        length = 20 + round(_font(15).getlength(name))
        if x > MARGIN and x + length > right:
            x, y = MARGIN, y + 24
        found.append((x, y, name, colour))
        x += length + 18
    return found


def _lefts(columns: int, tile: int, block: int, left: int) -> list[int]:
    """The left edge of each column."""
    wide = BLOCK_GAP - GAP
    return [MARGIN + left + i * (tile + GAP) + (i // block * wide if block else 0) for i in range(columns)]


def save(image: Image.Image, path: Path) -> Path:
    """Write a PNG file, there whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    image.save(temporary, format="PNG", optimize=True)
    return temporary.replace(path)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _wrap(text: str, font: Font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _fit(text: str, font: Font, width: int) -> str:
    """As much of a line as fits."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"

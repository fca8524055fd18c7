"""Pictures of what a method sees and answers, as PNG files with their captions in them.

Small pictures are scaled up by whole pixels. One channel is shown grey; of more than three the first three are shown,
in false colour, and the caption says so.
"""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import rgb_to_grayscale
from torchvision.utils import draw_segmentation_masks

from tutelage.batch import IGNORED, Batch, Objects, to_unit
from tutelage.data.index import Statistics
from tutelage.encoder import grid_of, patch_of
from tutelage.method import Method, Output
from tutelage.sheet import BAD, GOOD, INK, Cell, save, sheet
from tutelage.targets import patchify, unpatchify

TILE = 128
"""Pixels a picture is brought to: the largest whole multiple of a small one that fits, or a large one made smaller."""
LARGE = 256
"""The same of pictures with masks or objects: what matters in them is small."""
HIDDEN = 0.87
"""Grey of a hidden patch."""
NUM_PICTURES, NUM_PROTOTYPES, NUM_MEMBERS = 8, 6, 7


# --- what to draw -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def draw_step(
    method: Method, batch: dict[str, Batch], output: Output, statistics: Statistics, folder: Path
) -> list[Path]:
    """Draw what a step of a method allows into `folder`; the paths of the PNG files.

    `batch` is normalised, as the method took it. `reconstruction.png` for pixels, `tokens.png` for teacher tokens,
    `prototypes.png` where there are class labels; none where nothing was hidden.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if "ids_mask" not in output.seen:
        return []
    plain = next(iter(batch.values())).views[0]  # the first view of the first stream is what is masked
    x = denormalise(plain, statistics)
    seen = {name: tensor.float().cpu() for name, tensor in output.seen.items() if tensor.is_floating_point()}
    ids = output.seen["ids_mask"].cpu()
    patch, grid = patch_of(method.student), grid_of(method.student)
    paths = []
    if "pixels" in seen:
        settings: Any = method.masked.settings
        norm_pix = bool(settings.norm_pix)
        normal = plain.float().cpu()
        rebuilt = denormalise(rebuild(normal, seen["pixels"], ids, patch, grid, norm_pix=norm_pix), statistics)
        unseen = output.seen["unseen"].cpu() if "unseen" in output.seen else None
        drawn = reconstruction_grid(x, rebuilt, ids, grid, norm_pix=norm_pix, unseen=unseen)
        paths.append(save(drawn, folder / "reconstruction.png"))
    if "target" in seen and "prediction" in seen:
        paths.append(save(token_pca(x, seen["target"], seen["prediction"], ids, grid), folder / "tokens.png"))
    if "class_labels" in seen:
        paths.append(save(prototypes(x, seen["class_labels"].mean(1)), folder / "prototypes.png"))
    return paths


def reconstruction_grid(
    pictures: Float[Tensor, "b c h w"],
    rebuilt: Float[Tensor, "b c h w"],
    ids_mask: Int[Tensor, "b m"],
    grid: tuple[int, int],
    *,
    norm_pix: bool,
    unseen: Bool[Tensor, "b n"] | None = None,
) -> Image.Image:
    """Original, masked and reconstructed pictures (all in 0..1), side by side; white where a window leaves patches out."""
    shown = min(NUM_PICTURES, len(pictures))
    masked = hide(pictures, hidden_pixels(ids_mask, pictures, grid))
    note = f"{_share(ids_mask, grid)} patches were hidden; the visible ones are pasted in."
    if unseen is not None:
        size = (int(pictures.shape[2]), int(pictures.shape[3]))
        outside = F.interpolate(unseen.float().reshape(-1, 1, *grid), size=size, mode="nearest") > 0
        masked, rebuilt = hide(masked, outside, 1.0), hide(rebuilt, outside, 1.0)
        inside = grid[0] * grid[1] - int(unseen[0].sum())
        note = f"One window of {inside} patches a picture; {ids_mask.shape[1]} were hidden, the visible ones are pasted in."
    cells = [[Cell(show(p[i])) for p in (pictures, masked, rebuilt)] for i in range(shown)]
    if norm_pix:
        note += " Reconstruction de-normalised with each patch's own mean and standard deviation."
    headings = ("original", "masked", "reconstructed")
    return sheet("Reconstruction", note + _false_colour(pictures), _pair_up(cells), headings)


def token_pca(
    pictures: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b m d"],
    prediction: Float[Tensor, "b m d"],
    ids_mask: Int[Tensor, "b m"],
    grid: tuple[int, int],
) -> Image.Image:
    """Pictures (in 0..1) beside the target and predicted tokens of their hidden patches, as colours."""
    shown = min(NUM_PICTURES, len(pictures))
    hidden = hidden_pixels(ids_mask, pictures, grid)
    masked = hide(pictures, hidden)
    places = torch.zeros(len(pictures), grid[0] * grid[1], 3)
    size = (int(pictures.shape[2]), int(pictures.shape[3]))
    columns = [pictures, masked]
    for colours in pca_colours(target, prediction):
        tokens = places.scatter(1, ids_mask.unsqueeze(-1).expand(-1, -1, 3), colours)
        tokens = F.interpolate(tokens.transpose(1, 2).reshape(-1, 3, *grid), size=size, mode="nearest")
        columns.append(hide(tokens, ~hidden, 1.0))
    cells = [[Cell(show(column[i])) for column in columns] for i in range(shown)]
    note = (
        "Tokens of the hidden patches at unit length: three main directions of the target tokens as red, green and "
        "blue, the same for the prediction. Where they are alike in every picture they tell a patch's place, no more."
    )
    headings = ("original", "masked", "target", "predicted")
    return sheet("Target and predicted tokens", note + _false_colour(pictures), _pair_up(cells), headings)


def prototypes(pictures: Float[Tensor, "b c h w"], labels: Float[Tensor, "b m"]) -> Image.Image:
    """The prototypes that are the first choice of most pictures (in 0..1), with the pictures surest of them."""
    sureness, choice = labels.max(1)
    counts = torch.bincount(choice, minlength=labels.shape[1])
    rows, names = [], []
    for prototype in counts.argsort(descending=True, stable=True)[:NUM_PROTOTYPES].tolist():
        members = (choice == prototype).nonzero().flatten()
        members = members[sureness[members].argsort(descending=True, stable=True)][:NUM_MEMBERS]
        if len(members):
            rows.append([Cell(show(pictures[i]), f"{float(sureness[i]):.0%}") for i in members.tolist()])
            names.append(f"prototype {prototype}\n{int(counts[prototype])} of {len(pictures)}")
    note = (
        f"{int((counts > 0).sum())} of {labels.shape[1]} prototypes are the first choice of at least one of "
        f"{len(pictures)} pictures. Below each picture, how much of it the labelling teacher assigns there."
    )
    return sheet("Most used prototypes", note + _false_colour(pictures), rows, names=names)


def neighbours(
    pictures: Shaped[Tensor, "n c h w"],
    features: Float[Tensor, "n d"],
    *,
    labels: Int[Tensor, " n"] | None = None,
    classes: Sequence[str] = (),
    whose: str = "Held-out",
    num_queries: int = 6,
) -> Image.Image:
    """A few pictures (uint8, or in 0..1), evenly spread over the set, and those nearest to them by cosine of features."""
    unit = F.normalize(features.float(), dim=-1)
    queries = torch.linspace(0, len(pictures) - 1, min(num_queries, len(pictures))).long()
    cosines = unit[queries] @ unit.T
    cosines[torch.arange(len(queries)), queries] = -torch.inf
    nearest = cosines.topk(min(NUM_MEMBERS - 1, len(pictures) - 1), dim=1).indices

    def cell(i: int, query: int) -> Cell:
        known = labels is not None and int(labels[i]) >= 0 and int(labels[query]) >= 0
        if labels is None or not known:
            return Cell(show(to_unit(pictures[i])))
        name = classes[int(labels[i])] if int(labels[i]) < len(classes) else str(int(labels[i]))
        ink = INK if i == query else GOOD if labels[i] == labels[query] else BAD
        return Cell(show(to_unit(pictures[i])), name, ink)

    rows = [[cell(q, q), *(cell(i, q) for i in row)] for q, row in zip(queries.tolist(), nearest.tolist(), strict=True)]
    note = f"{whose} pictures, and the nearest of {len(pictures)} by the cosine of their class tokens."
    note += " Green names agree with the first picture, red ones do not." if labels is not None else ""
    headings = ("picture", "nearest first")
    return sheet("Nearest neighbours", note + _false_colour(pictures), rows, headings, block=NUM_MEMBERS)


def segmentations(
    items: Sequence[Sequence[Tensor]], headings: Sequence[str], classes: Sequence[str], note: str, *, tile: int = LARGE
) -> Image.Image:
    """Pictures [c, h, w] in 0..1, each followed by masks [h, w] that are laid over it, and the colours of the classes."""
    cells = [
        [Cell(show(picture, tile)), *(Cell(show(overlaid(picture, mask), tile)) for mask in masks)]
        for picture, *masks in items
    ]
    found = {int(c) for _, *masks in items for mask in masks for c in torch.unique(mask)} - {IGNORED}
    legend = {classes[c]: colour(c) for c in sorted(found)}
    false = _false_colour(items[0][0][None]) if items else ""
    return sheet("Masks", note + false, _side_by_side(cells), headings, legend=legend)


class Marked(NamedTuple):
    """What lies on a picture, as somebody says."""

    objects: Objects
    scores: tuple[float, ...] = ()
    """How sure each is, 0 to 1, the surest first; none of what is known."""


def detections(
    items: Sequence[tuple[Tensor, Sequence[Marked]]],
    headings: Sequence[str],
    classes: Sequence[str],
    note: str,
    *,
    tile: int = LARGE,
) -> Image.Image:
    """Pictures [c, h, w] in 0..1, each followed by what lies on it, by one who says so after the other.

    Boxes have the names of their classes, and how sure they are.
    """
    cells = [
        [Cell(show(picture, tile)), *(Cell(_outlined(picture, each, classes, tile)) for each in told)]
        for picture, told in items
    ]
    present = {int(c) for _, told in items for each in told for c in each.objects.labels}
    legend = {classes[c]: colour(c) for c in sorted(present)}
    false = _false_colour(items[0][0][None]) if items else ""
    return sheet("Objects", note + false, _side_by_side(cells), headings, legend=legend)


def shown_size(picture: Tensor, tile: int = LARGE) -> tuple[int, int]:
    """(height, width) at which a picture [c, h, w] is kept to be shown: no more than twice the tile."""
    h, w = picture.shape[-2:]
    factor = min(1.0, 2 * tile / max(h, w))
    return max(1, round(h * factor)), max(1, round(w * factor))


def _outlined(picture: Float[Tensor, "c h w"], marked: Marked, classes: Sequence[str], tile: int) -> Image.Image:
    """A picture (in 0..1) with its objects in the colours of their classes: masks laid over it, boxes, and their names."""
    objects = marked.objects
    # The surest comes last, over the others.
    order = list(range(len(objects.labels)))[::-1]
    mask = torch.full(picture.shape[-2:], IGNORED)
    for k in order:
        mask[objects.masks[k]] = int(objects.labels[k])
    image = show(overlaid(picture, mask), tile)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(max(11, tile // 30))
    factor = torch.tensor([image.width / picture.shape[-1], image.height / picture.shape[-2]] * 2)
    boxes, labels = (factor * objects.boxes).tolist(), objects.labels.tolist()
    for k in order:
        x0, y0, x1, y1 = boxes[k]
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour(labels[k]), width=1 + tile // 300)
    taken: list[tuple[float, float, float, float]] = []
    for k in order[::-1]:
        score = f" {marked.scores[k]:.0%}" if marked.scores else ""
        taken.append(_name(draw, boxes[k], classes[labels[k]] + score, colour(labels[k]), font, taken))
    return image


def _name(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    ink: tuple[int, int, int],
    font: Any,
    taken: Sequence[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """A name at the upper left corner of a box, above it where there is room, or below the names that are there; its place."""
    width, height = draw.im.size
    _, top, _, bottom = draw.textbbox((0, 0), "Ágy", font)
    wide, high = draw.textlength(text, font) + 6, bottom - top + 3
    x, y = max(0.0, min(box[0], width - wide)), max(0.0, min(box[1] - high, height - high))
    for other in sorted(taken, key=lambda place: place[1]):
        if x < other[2] and other[0] < x + wide and y < other[3] and other[1] < y + high:
            y = other[3]
    draw.rectangle((x, y, x + wide - 1, y + high - 1), ink)
    dark = 0.299 * ink[0] + 0.587 * ink[1] + 0.114 * ink[2] < 140
    draw.text((x + 3, y + 1 - top), text, "white" if dark else "black", font)
    return x, y, x + wide, y + high


def overlaid(picture: Float[Tensor, "c h w"], mask: Integer[Tensor, "h w"]) -> Float[Tensor, "3 h w"]:
    """A picture (in 0..1) under the colours of its classes: grey where it has one, for its own colour would change theirs."""
    found = [c for c in torch.unique(mask).tolist() if c != IGNORED]
    rgb = _coloured(picture)
    if not found:
        return rgb
    below = torch.where(mask == IGNORED, rgb, rgb_to_grayscale(rgb, 3))
    layers = torch.stack([mask == c for c in found])
    drawn: Tensor = draw_segmentation_masks(below, layers, alpha=0.6, colors=[colour(c) for c in found])
    return drawn


def colour(number: int) -> tuple[int, int, int]:
    """Of a class: ten that are told apart, their pale sisters, and from 20 on others, none of which comes twice below 255."""
    if number < 20:
        red, green, blue = colormaps["tab20"].colors[2 * (number % 10) + number // 10]  # type: ignore[attr-defined]
    else:  # turns by the golden section never come back to a hue
        shade = number % 3
        red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, (0.9, 0.6, 0.75)[shade], (0.65, 0.95, 0.8)[shade])
    return round(255 * red), round(255 * green), round(255 * blue)


# --- tensors ----------------------------------------------------------------------------------------------------------


def denormalise(pictures: Float[Tensor, "b c h w"], statistics: Statistics) -> Float[Tensor, "b c h w"]:
    """Normalised pictures as they were, in 0..1, on the CPU."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (statistics.mean, statistics.std))
    return (pictures.float().cpu() * std + mean).clamp(0, 1)


def rebuild(
    pictures: Float[Tensor, "b c h w"],
    prediction: Float[Tensor, "b n p"],
    ids_mask: Int[Tensor, "b m"],
    patch: tuple[int, int],
    grid: tuple[int, int],
    *,
    norm_pix: bool,
) -> Float[Tensor, "b c h w"]:
    """Normalised pictures with their hidden patches predicted.

    With `norm_pix` a prediction knows no brightness and no contrast: it gets the patch's own mean and (unbiased)
    standard deviation back, which the model never saw.
    """
    patches = patchify(pictures, patch)
    if norm_pix:
        mean, variance = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
        prediction = prediction * (variance + 1e-6).sqrt() + mean
    hidden = torch.zeros(patches.shape[:2], dtype=torch.bool).scatter(1, ids_mask, True).unsqueeze(-1)
    return unpatchify(torch.where(hidden, prediction, patches), patch, grid)


def pca_colours(
    target: Float[Tensor, "b m d"], prediction: Float[Tensor, "b m d"]
) -> tuple[Float[Tensor, "b m 3"], Float[Tensor, "b m 3"]]:
    """Both in 0..1 along the three main directions of the unit-length targets, scaled by the targets' 2 % to 98 %."""
    t, y = F.normalize(target.float(), dim=-1), F.normalize(prediction.float(), dim=-1)
    mean = t.mean((0, 1))
    directions = torch.linalg.svd((t - mean).flatten(0, 1), full_matrices=False).Vh[:3]
    directions = F.pad(directions, (0, 0, 0, 3 - len(directions)))
    flat = ((t - mean) @ directions.T).flatten(0, 1)
    places = torch.tensor([0.02, 0.98])
    low, high = (flat.sort(0).values[(places * (len(flat) - 1)).round().long()]).unbind(0)
    t, y = (((x - mean) @ directions.T - low) / (high - low).clamp(min=1e-6) for x in (t, y))
    return t.clamp(0, 1), y.clamp(0, 1)


def hidden_pixels(
    ids_mask: Int[Tensor, "b m"], pictures: Float[Tensor, "b c h w"], grid: tuple[int, int]
) -> Bool[Tensor, "b 1 h w"]:
    """True where a pixel's patch is hidden."""
    hidden = torch.zeros(len(ids_mask), grid[0] * grid[1]).scatter(1, ids_mask, 1.0)
    size = (int(pictures.shape[2]), int(pictures.shape[3]))
    return F.interpolate(hidden.reshape(-1, 1, *grid), size=size, mode="nearest") > 0


def hide(
    pictures: Float[Tensor, "b c h w"], hidden: Bool[Tensor, "b 1 h w"], grey: float = HIDDEN
) -> Float[Tensor, "b c h w"]:
    """Pictures with some pixels grey."""
    return torch.where(hidden, torch.full_like(pictures, grey), pictures)


# --- images ---------------------------------------------------------------------------------------------------------


def show(picture: Float[Tensor, "c h w"], tile: int = TILE) -> Image.Image:
    """A picture in 0..1 as an image of about `tile` pixels."""
    h, w = picture.shape[1:]
    image = Image.fromarray((_coloured(picture) * 255).round().byte().permute(1, 2, 0).contiguous().numpy())
    times = tile // max(h, w)
    if times >= 1:
        return image.resize((w * times, h * times), Image.Resampling.NEAREST)
    return image.resize((max(1, w * tile // max(h, w)), max(1, h * tile // max(h, w))), Image.Resampling.LANCZOS)


def _coloured(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "3 h w"]:
    """Three channels: grey is repeated, two get an empty third, of more the first three are taken."""
    c, h, w = picture.shape
    return picture.expand(3, h, w) if c == 1 else torch.cat([picture[:3], picture.new_zeros(max(0, 3 - c), h, w)])


def _side_by_side(cells: list[list[Cell]]) -> list[list[Cell]]:
    """Two items a row, where an item is no more than a pair."""
    return _pair_up(cells) if all(len(item) <= 2 for item in cells) else cells


def _pair_up(cells: list[list[Cell]]) -> list[list[Cell]]:
    """Two items a row."""
    return [[cell for item in cells[i : i + 2] for cell in item] for i in range(0, len(cells), 2)]


def _share(ids_mask: Int[Tensor, "b m"], grid: tuple[int, int]) -> str:
    return f"{ids_mask.shape[1]} of {grid[0] * grid[1]}"


def _false_colour(pictures: Shaped[Tensor, "b c h w"]) -> str:
    channels = pictures.shape[1]
    return "" if channels in (1, 3) else f" False colour: channels 1 to {min(3, channels)} of {channels}."

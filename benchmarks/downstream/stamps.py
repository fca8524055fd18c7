"""Stamps: pictures of 128 px with objects of eight kinds, and what lies where, as index masks and as COCO JSON.

    .venv/bin/python benchmarks/downstream/stamps.py OUT [--train 2000] [--test 400]

One to four stamps of Debian's `tuxpaint-stamps-default` (with their transparency) lie on crops of the photographs of
scikit-image and the backgrounds of `gnome-backgrounds`, drawn from a seed: a side of 25 to 60 % of the picture's, mirrored by
a coin, turned by up to 15 degrees; a later one may hide part of an earlier one. No stamp and no photograph is in both
parts: stamps are divided by the first word of their names, so mirrored and outlined ones stay together. OUT gets
images/{train,test}, masks/{train,test} (0 is background, 1 to 8 the kinds), classes.csv, {train,test}.json and parts.json.
Both packages are to be installed (`apt-get install`).
"""

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

SIDE = 128
KINDS = {
    "bird": "animals/birds", "mammal": "animals/mammals", "insect": "animals/insects", "flower": "plants/flowers",
    "fruit": "food/fruit", "vegetable": "food/vegetables", "vehicle": "vehicles", "sign": "town/roadsigns",
}  # fmt: skip
STAMPS, BACKGROUNDS = Path("/usr/share/tuxpaint/stamps"), Path("/usr/share/backgrounds/gnome")
PHOTOGRAPHS = (
    "astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "hubble_deep_field",
    "immunohistochemistry", "moon", "page", "rocket",
)  # fmt: skip
TEST_SHARE = 0.2
LEAST_SEEN = 0.4
"""Share of an object that those above it leave to see, together; one that would leave less is not put there."""
Objects = list[tuple[int, NDArray[np.bool_]]]


def stamps(part: str) -> dict[int, list[Image.Image]]:
    """The stamps of each kind (from 1) that belong to a part, cut to what is not transparent."""
    found = {}
    for number, folder in enumerate(KINDS.values(), start=1):
        files = sorted((STAMPS / folder).rglob("*.png"))
        words = sorted({word_of(file) for file in files}, key=lambda word: hashlib.sha256(word.encode()).digest())
        test = set(words[: max(2, round(TEST_SHARE * len(words)))])
        images = [Image.open(file).convert("RGBA") for file in files if (word_of(file) in test) == (part == "test")]
        found[number] = [image.crop(image.getchannel("A").getbbox()) for image in images]
    return found


def word_of(file: Path) -> str:
    """What is never divided: the first word of a stamp's name."""
    return re.split(r"[_\-\d.]", file.stem.lower())[0]


def grounds(part: str) -> list[Image.Image]:
    """Photographs and backgrounds of a part: every fourth is for testing, dark and light ones of a name together."""
    images = {name: [Image.fromarray(np.asarray(getattr(skimage.data, name)())).convert("RGB")] for name in PHOTOGRAPHS}
    for file in sorted(BACKGROUNDS.glob("*.webp")):
        name = re.sub("-[dl]$", "", file.stem)
        images.setdefault(name, []).append(Image.open(file).convert("RGB").resize((512, 512)))
    of_part = [own for i, own in enumerate(images.values()) if (i % 4 == 3) == (part == "test")]
    return [image for own in of_part for image in own]


def picture(
    kinds: dict[int, list[Image.Image]], photographs: list[Image.Image], rng: np.random.Generator
) -> tuple[Image.Image, Objects]:
    """A picture and what lies on it, each with the pixels that are left to see."""
    ground = photographs[rng.integers(len(photographs))]
    side = int(rng.integers(SIDE, min(ground.size) + 1)) if min(ground.size) > SIDE else min(ground.size)
    left, top = (int(rng.integers(length - side + 1)) for length in ground.size)
    page = ground.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    objects: Objects = []
    areas: list[int] = []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(1, len(kinds) + 1))
        layer = placed(kinds[kind][rng.integers(len(kinds[kind]))], rng)
        seen = np.asarray(layer.getchannel("A")) >= 128
        under = [(other, mask & ~seen) for other, mask in objects]
        if seen.sum() < 64 or any(mask.sum() < LEAST_SEEN * area for (_, mask), area in zip(under, areas, strict=True)):
            continue
        areas.append(int(seen.sum()))
        page.paste(layer, (0, 0), layer)
        objects = [*under, (kind, seen)]
    return page, objects


def placed(stamp: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A stamp somewhere on a transparent page."""
    if rng.random() < 0.5:
        stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    longest = SIDE * rng.uniform(0.25, 0.6)
    factor = longest / max(stamp.size)
    size = tuple(max(1, round(length * factor)) for length in stamp.size)
    stamp = stamp.resize(size, Image.Resampling.LANCZOS).rotate(
        rng.uniform(-15, 15), Image.Resampling.BICUBIC, expand=True
    )
    page = Image.new("RGBA", (SIDE, SIDE))
    left, top = (int(rng.integers(-length // 5, SIDE - length + length // 5 + 1)) for length in stamp.size)
    page.paste(stamp, (left, top))
    return page


def annotation(number: int, image: int, kind: int, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """An object as COCO has it: box [x, y, width, height], area, and the mask as run lengths by columns."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": kind,
        "iscrowd": 0,
        "area": int(mask.sum()),
        "bbox": [int(v) for v in (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)],
        "segmentation": {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs},
    }


def write(out: Path, part: str, count: int, seed: int) -> None:
    """The pictures of a part, with their masks and COCO JSON."""
    rng, kinds, photographs = np.random.default_rng(seed), stamps(part), grounds(part)
    images, annotations = [], []
    for folder in ("images", "masks"):
        (out / folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        page, objects = picture(kinds, photographs, rng)
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for kind, seen in objects:
            mask[seen] = kind
        page.save(out / "images" / part / f"{i:05d}.png")
        Image.fromarray(mask).save(out / "masks" / part / f"{i:05d}.png")
        images.append({"id": i, "file_name": f"{part}/{i:05d}.png", "width": SIDE, "height": SIDE})
        annotations += [
            annotation(len(annotations) + k, i, kind, seen) for k, (kind, seen) in enumerate(objects, start=1)
        ]
    categories = [{"id": number, "name": name} for number, name in enumerate(KINDS, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    (out / f"{part}.json").write_text(json.dumps(coco))


def main() -> None:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=400)
    args = parser.parse_args()
    write(args.out, "train", args.train, seed=0)
    write(args.out, "test", args.test, seed=1)
    lines = ["value,name", *(f"{value},{name}" for value, name in enumerate(("background", *KINDS)))]
    (args.out / "classes.csv").write_text("\n".join(lines) + "\n")
    counts = {part: {name: len(stamps(part)[i]) for i, name in enumerate(KINDS, 1)} for part in ("train", "test")}
    (args.out / "parts.json").write_text(json.dumps(counts, indent=2) + "\n")


if __name__ == "__main__":
    main()

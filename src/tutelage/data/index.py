"""What DATA means: from a folder, a list, a table or a name to pictures to train on, to monitor by and to test on."""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.batch import Annotation
from tutelage.data import named
from tutelage.data.coco_parts import Told, in_coco_parts, told_by_coco
from tutelage.data.duplicates import shared
from tutelage.data.found import Found, open_files
from tutelage.data.hashtags import TagSettings, open_tags
from tutelage.data.idx import read_idx_folder
from tutelage.data.labels import few, fewer, fingerprint_with, is_table, labelled_by
from tutelage.data.listing import Listing, list_data
from tutelage.data.masks import Layout, Masks, check_layout, layout_of, mask_of, open_masks
from tutelage.data.objects import Instances, can_be_learned, coco_files, instances_of, read_coco
from tutelage.data.outlines import coco_masks
from tutelage.data.sources import Arrays, ArraySource, FileSource, Pictures, Source
from tutelage.data.splits import HOLDOUT, name_hashes, take
from tutelage.errors import DataError, listed

__all__ = [
    "ArraySource",
    "Data",
    "FileSource",
    "Found",
    "Pictures",
    "Source",
    "Statistics",
    "measure_statistics",
    "open_data",
]

TEST_SHARE = 0.2
MAX_HELD_OUT = 10_000


@dataclass(frozen=True, eq=False)
class Data:
    """A set, divided: no picture is in two parts."""

    name: str
    train: Pictures
    held_out: Pictures
    """Taken out of training, to monitor and to choose by."""
    test: Pictures
    channels: int
    found: Found
    fingerprint: str
    """A SHA-256 of names, lengths (of arrays: pixels), labels and division."""

    @property
    def everything(self) -> Pictures:
        """All pictures of the source in its order, each with the label that a part has for it."""
        labels = np.full(len(self.train.source), -1, dtype=np.int64)
        for part in (self.train, self.held_out, self.test):
            labels[part.ids] = part.labels
        return replace(self.train, ids=np.arange(len(labels)), labels=labels)

    @property
    def division(self) -> str:
        """A SHA-256 of the pictures and of the part that each is in, whatever is known of them."""
        h = hashlib.sha256(self.train.source.digest())
        for part in (self.train, self.held_out, self.test):
            h.update(np.sort(part.ids).astype("<i8").tobytes() + b"|")
        return h.hexdigest()

    @property
    def hashes(self) -> dict[str, str]:
        """The pictures, which are for testing, and what tags say, each hashed by itself, to tell what differs."""
        tested = hashlib.sha256(np.sort(self.test.ids).astype("<i8").tobytes()).hexdigest()
        told = {"pictures": self.train.source.digest().hex(), "tested": tested}
        tags = self.train.tags
        return told if tags is None else told | {"tags": tags.digest().hex(), "wordnet": tags.wordnet}


class Statistics(NamedTuple):
    """Mean and standard deviation of each channel, of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


def open_data(
    data: str,
    *,
    holdout: float = HOLDOUT,
    share: float = 1.0,
    labels: str | None = None,
    seed: int = 0,
    cache: Path | None = None,
    annotation: Annotation = "classes",
    tags: str | None = None,
    tagging: TagSettings | None = None,
    divided: bool = True,
) -> Data:
    """The set that `data` names: a named set, a folder (of pictures, or of idx files), a list (.txt) or a table (.csv).

    With the `annotation` masks or objects it is a folder as `data.masks` or `data.objects` describes.

    A given test part is kept as it is. Otherwise a fifth of the labelled pictures, stratified, is kept for testing;
    of the rest the share `holdout`, at most 10,000, is held out of training, unless the set has a validation part
    besides its test part; with a `holdout` of 0 that part is trained on too. Both are functions of names and labels alone.
    `cache` is where named sets are kept, and what was seen of large ones.

    `share` of the training pictures are used, chosen by `seed`. `labels` are those of a table (labels.csv) instead of the
    set's own, or as many ("40", "10%") of the training pictures' as are to be known, chosen by `seed`. With the
    `annotation` tags each picture also comes with what people wrote to it: in the table `tags`, or in JSON files beside the
    pictures, made classes as `tagging` says. Who asks for all pictures, whatever their parts, says that they need not be
    `divided`: then no COCO file is read. Raises DataError D-01 to D-47, SettingsError C-14.
    """
    table = Path(labels).expanduser() if labels and is_table(labels) else None
    if table and annotation in ("masks", "objects"):
        raise DataError("D-24", f"the {annotation} of {data} are its own: a table of labels says nothing of them.")
    if annotation in ("classes", "tags"):
        whole = _opened(data, holdout, table, cache, divided=divided)
    else:
        whole = (_open_masked if annotation == "masks" else _open_objects)(data, holdout, cache)
    train, notes = whole.train, list(whole.found.notes)
    if share < 1:
        train = fewer(train, share, seed)
        notes.append(f"{len(train):,} of {len(whole.train):,} training pictures are used: a share of {share:g}")
    if labels is not None and table is None:
        known = int((train.labels >= 0).sum())
        train = few(train, labels, seed)
        used = int((train.labels >= 0).sum())
        notes.append(f"{used:,} of {known:,} training labels are used; the other training pictures count as unlabelled")
    if train is not whole.train:
        found = replace(whole.found, notes=tuple(notes))
        whole = replace(whole, train=train, found=found, fingerprint=fingerprint_with(whole.fingerprint, train))
    return _tagged(whole, tags, tagging or TagSettings()) if annotation == "tags" else whole


def _tagged(data: Data, table: str | None, tagging: TagSettings) -> Data:
    """The set with tags; its classes are those of the tags that training pictures have."""
    tags, notes = open_tags(data.train, Path(table).expanduser() if table else None, tagging)
    parts = {name: replace(getattr(data, name), tags=tags) for name in ("train", "held_out", "test")}
    found = replace(data.found, notes=(*data.found.notes, *notes))
    fingerprint = hashlib.sha256(data.fingerprint.encode() + tags.digest()).hexdigest()
    return replace(data, **parts, found=found, fingerprint=fingerprint)


def _opened(data: str, holdout: float, table: Path | None, cache: Path | None, *, divided: bool) -> Data:
    path = Path(data).expanduser()
    opened: Listing | Arrays
    annotated: Callable[[str], bool] = frozenset[str]().__contains__
    if arrays := read_idx_folder(path):
        name, opened = path.resolve().name, arrays
    elif data not in named.NAMES or path.exists():
        name, (opened, annotated) = path.resolve().stem, _listed(path, divided=divided)
    else:
        name, opened = data, named.open_named(data, cache or named.cache_folder())
    if isinstance(opened, Listing):
        return _open_listing(name, labelled_by(opened, table) if table else opened, holdout, cache, annotated)
    if table:
        raise DataError(
            "D-24", f"{data} is no folder or list of pictures whose files {table} could name.", todo="Use --labels N."
        )
    source = opened.source
    found = Found(
        len(source), Counter({source.size: len(source)}), Counter(["uint8"]), source.channels, notes=opened.notes
    )
    return _divide(name, source, opened.labels, opened.classes, opened.parts, found, holdout)


def _listed(path: Path, *, divided: bool) -> tuple[Listing, Callable[[str], bool]]:
    """The files of a folder or list, of a folder with masks or objects its pictures alone; and which have such."""
    layout, told = layout_of(path), told_by_coco(path) if divided else Told()
    if told.files and (not layout or layout.masks == "annotations"):
        return in_coco_parts(path, told), told.learned.__contains__
    if not layout:
        listing = list_data(path, named.NAMES)
        return replace(listing, notes=(*listing.notes, *told.notes)), told.learned.__contains__  # of none
    listing = _masked(path, layout, told)
    note = f"the pictures of {layout.pictures}/ are taken: {layout.masks}/ holds masks"
    return replace(listing, notes=(*listing.notes, note)), lambda name: mask_of(path, layout, name) != ""


def _masked(root: Path, layout: Layout, told: Told) -> Listing:
    """The pictures of a folder with masks, in the parts that COCO files tell where there are such too."""
    listing = list_data(root / layout.pictures)
    own = zip(listing.names, listing.parts, strict=True)
    parts = tuple(told.parts.get(f"{layout.pictures}/{name}", part) for name, part in own)
    return replace(listing, parts=parts, notes=(*listing.notes, *told.notes))


def _open_masked(data: str, holdout: float, cache: Path | None) -> Data:
    """Pictures with masks; those without one, or with one that counts for nothing, are unlabelled."""
    root, kept = Path(data).expanduser(), cache or _cache_folder()
    layout = check_layout(root)
    listing = _masked(root, layout, told_by_coco(root))
    readable = open_files(replace(listing, labels=("",) * len(listing.names), notes=()), kept)
    masks = open_masks(root, layout, readable.source.names, readable.sizes, kept)
    labels = np.array([0 if shown else -1 for shown in masks.shown], dtype=np.int64)
    without = sum(not name for name in masks.names)
    nothing = int((labels < 0).sum()) - without
    notes = (
        *([f"{without:,} pictures have no mask"] if without else []),
        *([f"{nothing:,} pictures have a mask of which no pixel counts, and are not trained on"] if nothing else []),
        f"{len(masks.classes)} classes of pixels",
    )
    found = replace(readable.found, notes=(*readable.found.notes, *notes))
    divided = _divide(
        root.resolve().name, readable.source, labels, masks.classes, readable.parts, found, holdout, masks
    )
    if not (unseen := masks.unseen(divided.train.ids)):
        return divided
    warned = f"warning: {len(unseen)} of {len(masks.classes)} classes are in no mask to train on: {listed(unseen)}"
    return replace(divided, found=replace(divided.found, notes=(*divided.found.notes, warned)))


def _open_objects(data: str, holdout: float, cache: Path | None) -> Data:
    """Pictures with objects; those without any count as unlabelled."""
    coco_masks()  # said now, not at the first polygon or the first average precision
    root = Path(data).expanduser()
    files = [read_coco(root, path, part) for part, path in coco_files(root).items()]
    parts = {name: file.part for file in files for name in file.pictures.values()}
    names = tuple(sorted(parts))
    listing = Listing(root, names, ("",) * len(names), tuple(parts[name] for name in names), Counter())
    readable = open_files(listing, cache or _cache_folder())
    instances = instances_of(files, readable.source.names, readable.sizes)
    labels = np.array(list(map(can_be_learned, instances.rows)), dtype=np.int64) - 1
    found = replace(readable.found, notes=(*readable.found.notes, *instances.notes(files, readable.parts)))
    classes = instances.classes
    return _divide(
        root.resolve().name, readable.source, labels, classes, readable.parts, found, holdout, None, instances
    )


def measure_statistics(pictures: Pictures, limit: int = 10_000) -> Statistics:
    """Mean and standard deviation of each channel over the pixels (in 0..1) of up to `limit` pictures, evenly spread.

    Every pixel counts the same, so large pictures count more. Deviations are at least 1/255, so that pictures of one
    colour can be normalised too.
    """
    count = min(limit, len(pictures))
    chosen = [i * len(pictures) // count for i in range(count)]

    def power_sums(i: int) -> torch.Tensor:
        return _power_sums(pictures.read(i))

    if pictures.in_memory:
        found = list(map(power_sums, chosen))
    else:
        with ThreadPoolExecutor() as pool:
            found = list(pool.map(power_sums, chosen))
    sums = torch.stack(found).sum(dim=0)
    mean = sums[1] / sums[0]
    std = (sums[2] / sums[0] - mean**2).clamp(min=0).sqrt().clamp(min=1 / 255)
    return Statistics(tuple(mean.tolist()), tuple(std.tolist()))


_POWERS = (torch.arange(256, dtype=torch.float64) / 255) ** torch.arange(3)[:, None]
"""1, x and x squared of each value of a byte, as x in 0..1."""


def _power_sums(picture: torch.Tensor) -> torch.Tensor:
    """Number, sum and sum of squares of the pixels of each channel, [3, c] in float64."""
    flat = picture.flatten(1)
    if flat.dtype == torch.uint8:  # by how often each value comes: a large picture takes a thirtieth of the time
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in flat])
        return _POWERS @ counts.T.double()
    x = flat.double()
    return torch.stack([torch.full((x.shape[0],), x.shape[1], dtype=torch.float64), x.sum(dim=1), (x * x).sum(dim=1)])


def _open_listing(
    name: str, listing: Listing, holdout: float, cache: Path | None, annotated: Callable[[str], bool]
) -> Data:
    """Files, with the class that each has. Where none has one, those `annotated` are divided as if it were one."""
    readable = open_files(listing, cache or _cache_folder())
    classes = _classes(readable.labels)
    untested = _refuse_other_classes(listing.root, readable.labels, readable.parts)
    number = {label: k for k, label in enumerate(classes)}
    labels = np.array([number.get(label, -1) for label in readable.labels], dtype=np.int64)
    found = replace(readable.found, notes=(*readable.found.notes, *untested))
    strata = labels if classes else np.array(list(map(annotated, readable.source.names)), dtype=np.int64) - 1
    return _divide(name, readable.source, labels, classes, readable.parts, found, holdout, strata=strata)


def _cache_folder() -> Path | None:
    """Where caches are kept, or None for a user who has no place to keep any."""
    try:
        return named.cache_folder()
    except RuntimeError:
        return None


def _classes(labels: tuple[str, ...]) -> tuple[str, ...]:
    """The classes in the order of their names; numbers in the order of their values."""
    names = sorted(set(labels) - {""})
    return tuple(sorted(names, key=int) if all(name.isascii() and name.isdigit() for name in names) else names)


def _refuse_other_classes(root: Path, labels: tuple[str, ...], parts: tuple[str, ...]) -> list[str]:
    """Raise D-11 when a picture that is not trained on has a class that is not trained on; a note on classes nobody tests."""
    train = {label for label, part in zip(labels, parts, strict=True) if part == "train" and label}
    other = {label for label, part in zip(labels, parts, strict=True) if part != "train" and label}
    if train and other - train:
        raise DataError(
            "D-11",
            f"classes in {root} differ: only for testing {_some(other - train)}; for training {_some(train - other)}.",
            "A class that is not trained on cannot be tested.",
            "Give the folders (or labels) of both parts the same names.",
        )
    untested = sorted(train - other)
    return (
        [f"{len(untested)} of {len(train)} classes are in no other part: {listed(untested)}"]
        if other and untested
        else []
    )


def _some(names: set[str]) -> str:
    return listed(sorted(names)) or "none"


def _divide(
    name: str,
    source: Source,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    parts: tuple[str, ...],
    found: Found,
    holdout: float,
    masks: Masks | None = None,
    instances: Instances | None = None,
    strata: NDArray[np.int64] | None = None,
) -> Data:
    """The set in its parts: those it has, and of each stratum (by default the labels; -1 is not tested) a share of pictures."""
    strata = labels if strata is None else strata
    # A picture is in the same part whether the set is its folder or has that in images/.
    hashes = name_hashes([source.name(i).removeprefix("images/") for i in range(len(source))])
    notes: list[str] = []
    test, val = _given(strata, parts, notes, trained_on=holdout == 0)
    held_out = val if holdout else np.zeros_like(val)
    trainable = np.array([part == "train" for part in parts], dtype=np.bool_) | val
    if not test.any():
        known = strata >= 0
        test[known] = take(hashes[known], strata[known], TEST_SHARE, "test")
        notes.append(
            f"{test.sum():,} of {known.sum():,} labelled pictures (a fifth, stratified) are kept for testing"
            if known.any()
            else "no labels: no picture is kept for testing"
        )
    if not held_out.any():
        rest = np.flatnonzero(trainable & ~test)
        share = min(holdout, MAX_HELD_OUT / max(1, len(rest)))
        held_out[rest] = take(hashes[rest], strata[rest], share, "held out")
        notes.append(
            f"{held_out.sum():,} of {len(rest):,} training pictures are held out of training, to watch it by"
            if holdout
            else f"all {len(rest):,} training pictures are trained on: none is held out to watch by"
        )
    everything = Pictures(source, np.arange(len(source)), labels, classes, masks, instances)
    trained = trainable & ~test & ~held_out
    notes += _leaks(source, trained, held_out, test)
    train = everything.subset(trained)
    rare = [] if masks or instances else [classes[k] for k in np.flatnonzero(_counts(train) <= 1)]
    if rare and train.has_labels:
        notes.append(f"{len(rare)} of {len(classes)} classes have one training picture or none: {listed(rare)}")
    if not len(train):
        raise DataError("D-03", f"{name} has {len(source)} pictures, and none is left to train on.")
    return Data(
        name,
        train,
        everything.subset(held_out),
        everything.subset(test),
        source.channels,
        replace(found, notes=(*found.notes, *notes)),
        _fingerprint(everything, test, held_out),
    )


def _counts(pictures: Pictures) -> NDArray[np.int64]:
    """Pictures of each class."""
    return np.bincount(pictures.labels[pictures.labels >= 0], minlength=len(pictures.classes))


def _leaks(source: Source, train: NDArray[np.bool_], held_out: NDArray[np.bool_], test: NDArray[np.bool_]) -> list[str]:
    """A note for each part that shares pictures with what it is kept from."""
    if not isinstance(source, FileSource):
        return []
    notes = []
    for part, what, other in ((test, "for testing", train | held_out), (held_out, "held out", train)):
        if found := shared(source, part, other):
            told = found.told(int(part.sum()), f"pictures {what} are in training")
            notes.append(f"{told}: they are no test of learning")
    return notes


def _fingerprint(everything: Pictures, test: NDArray[np.bool_], held_out: NDArray[np.bool_]) -> str:
    h = hashlib.sha256(everything.source.digest())
    for annotations in (everything.masks, everything.instances):
        h.update(annotations.digest() if annotations else b"")
    h.update("\0".join(everything.classes).encode("utf-8", "surrogateescape"))
    h.update(everything.labels.astype("<i8").tobytes() + test.tobytes() + held_out.tobytes())
    return h.hexdigest()


def _given(
    strata: NDArray[np.int64], parts: tuple[str, ...], notes: list[str], *, trained_on: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the test part and of the validation part that the set brings.

    A validation part alone is the test part, and so it is where only it has labels (as ImageNet's and COCO's).
    """
    test, val = (np.array([part == name for part in parts], dtype=np.bool_) for name in ("test", "val"))
    if val.any() and (not test.any() or (strata[val] >= 0).any() > (strata[test] >= 0).any()):
        notes.append(f"the validation part ({val.sum():,} pictures) is used for testing")
        if test.any():
            notes.append(f"the test part ({test.sum():,} pictures without labels) is not used")
        return val, np.zeros_like(val)
    if val.any():
        use = "trained on too" if trained_on else "held out of training, to watch it by"
        notes.append(f"the validation part ({val.sum():,} pictures) is {use}")
    return test, val

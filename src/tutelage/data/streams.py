"""From positions in a run to batches: a position counts pictures since the start, and decides everything else."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.batch import Batch, Objects, Stream
from tutelage.data.crops import eval_mask, eval_view
from tutelage.data.index import Pictures
from tutelage.data.joint import DetectView, SegmentView
from tutelage.data.order import Draws, links, mix, permute
from tutelage.data.views import ViewsSettings
from tutelage.errors import SettingsError, nearest

T = TypeVar("T")


class _Sample(NamedTuple):
    views: tuple[Tensor, ...]
    keys: tuple[NDArray[np.float32], ...]
    label: int
    number: int
    mask: Tensor | None = None
    objects: Objects | None = None
    tags: NDArray[np.int64] | None = None


class PictureStream:
    """The pictures of a run in their order, with the views that a method asked for.

    Position p of a set of N pictures is place p % N of epoch p // N, so a batch may straddle epochs and loses
    nothing. The picture, its crops, colours and mask keys are functions of (seed, epoch, place) alone.
    """

    def __init__(
        self,
        pictures: Pictures,
        stream: Stream,
        views: ViewsSettings,
        size: tuple[int, int],
        num_patches: int,
        seed: int,
    ) -> None:
        known = views.by_name
        for name in stream.views:
            if name not in known:
                raise SettingsError("S-30", f"no view is called '{name}'.", todo=nearest(name, known))
        self.pictures, self.labels = pictures, stream.labels
        self._names = stream.views
        self._views = tuple(known[name] for name in stream.views)
        self._num_keys = stream.num_keys
        self._size, self._num_patches, self.seed = size, num_patches, seed

    def batch(self, positions: NDArray[np.int64]) -> Batch:
        """The batch at `positions`, counted in pictures since the start of the run."""
        epochs, places = np.divmod(positions, len(self.pictures))
        chosen = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            chosen[here] = permute(places[here], len(self.pictures), self.seed, int(epoch))
        batch = _collate([self._sample(*map(int, row)) for row in zip(chosen, epochs, places, strict=True)])
        return replace(batch, links=torch.from_numpy(links(positions, chosen).view(np.int64)))

    def _sample(self, i: int, epoch: int, place: int) -> _Sample:
        number, picture = self.pictures.fetch(i)
        views, mask, objects = [], self.pictures.mask(number, picture), self.pictures.objects(number, picture)
        for k, (name, view) in enumerate(zip(self._names, self._views, strict=True)):
            random = Draws(mix(self.seed, name, k, epoch, place))
            if isinstance(view, SegmentView):
                assert mask is not None
                drawn, mask = view(picture, mask, self._size, random)
            elif isinstance(view, DetectView):
                assert objects is not None
                drawn, objects = view(picture, objects, self._size, random)
            else:
                drawn = view(picture, self._size, random)
            views.append(drawn)
        draws = (Draws(mix(self.seed, "keys", k, epoch, place)) for k in range(self._num_keys))
        keys = tuple(draw.uniforms(self._num_patches) for draw in draws)
        tags = self.pictures.tag_numbers(number)
        return _Sample(tuple(views), keys, int(self.pictures.labels[number]), number, mask, objects, tags)


def batches(
    stream: PictureStream,
    *,
    first_step: int,
    last_step: int,
    batch_size: int,
    micro_batches: int = 1,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> Iterator[list[Batch]]:
    """Lists of this rank's micro-batches, one for each step from `first_step` up to, not including, `last_step`.

    Step s is made of the positions [s G, (s + 1) G) for a batch of G pictures over all ranks; micro-batch m of M
    takes the m-th of M equal parts, and rank r of W every W-th position of it from r on. `workers` threads prepare
    pictures ahead; their number does not change a bit. Raises SettingsError where G is not a multiple of M times W.
    """
    if batch_size % (micro_batches * world):
        raise SettingsError(
            "S-31",
            f"a batch of {batch_size} pictures cannot be shared by {micro_batches} micro-batches on {world} processes.",
            todo=f"Use a multiple of {micro_batches * world}.",
        )
    part = batch_size // micro_batches
    starts = range(first_step * batch_size, last_step * batch_size, part)
    jobs = (np.arange(start + rank, start + part, world, dtype=np.int64) for start in starts)
    return _grouped(ahead(stream.batch, jobs, workers), micro_batches)


def default_workers(pictures: Pictures, device: torch.device) -> int:
    """Threads that prepare pictures ahead where none are asked for: none on a CPU, up to 8 beside a GPU, 1 for `in_memory`."""
    if device.type != "cuda":
        return 0
    return 1 if pictures.in_memory else min(8, torch.get_num_threads())


def eval_batches(
    pictures: Pictures,
    size: tuple[int, int],
    batch_size: int,
    workers: int = 0,
    *,
    num_patches: int = 0,
) -> Iterator[Batch]:
    """Every picture once, in order, in its plain view; mask keys for `num_patches` patches depend on the place only."""

    def batch(places: range) -> Batch:
        return _collate([_eval_sample(pictures, i, size, num_patches) for i in places])

    count = len(pictures)
    jobs = (range(start, min(start + batch_size, count)) for start in range(0, count, batch_size))
    return ahead(batch, jobs, workers)


def _eval_sample(pictures: Pictures, i: int, size: tuple[int, int], num_patches: int) -> _Sample:
    number, picture = pictures.fetch(i)
    keys = Draws(mix("evaluation keys", i)).uniforms(num_patches)
    mask = pictures.mask(number, picture)
    mask = None if mask is None else eval_mask(mask, size)
    label, tags = int(pictures.labels[number]), pictures.tag_numbers(number)
    return _Sample((eval_view(picture, size),), (keys,), label, number, mask, tags=tags)


def _collate(samples: list[_Sample]) -> Batch:
    views = tuple(_pinned(torch.stack(views)) for views in zip(*(s.views for s in samples), strict=True))
    keys = tuple(_pinned(torch.from_numpy(np.stack(keys))) for keys in zip(*(s.keys for s in samples), strict=True))
    labels = torch.tensor([s.label for s in samples], dtype=torch.int64)
    masks = [s.mask for s in samples if s.mask is not None]
    stacked = _pinned(torch.stack(masks)) if masks else None
    numbers = torch.tensor([s.number for s in samples], dtype=torch.int64)
    objects = tuple(s.objects for s in samples if s.objects is not None)
    tags = _padded([s.tags for s in samples if s.tags is not None])
    return Batch(views, keys, labels, numbers, masks=stacked, objects=objects, tags=tags)


def _padded(tags: list[NDArray[np.int64]]) -> Tensor | None:
    """A row of numbers for each picture, as long as the longest, filled up with -1; None where there are no tags."""
    if not tags:
        return None
    rows = np.full((len(tags), max(1, *map(len, tags))), -1, dtype=np.int64)
    for row, numbers in zip(rows, tags, strict=True):
        row[: len(numbers)] = numbers
    return torch.from_numpy(rows)


def _pinned(x: Tensor) -> Tensor:
    """In memory that the device can fetch from while it computes, where there is such a device."""
    return x.pin_memory() if torch.cuda.is_available() else x


def _grouped(batches_: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    group: list[Batch] = []
    for batch in batches_:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


J = TypeVar("J")


def ahead(work: Callable[[J], T], jobs: Iterable[J], workers: int) -> Iterator[T]:
    """The results of `work` in the order of `jobs`; with workers, a bounded number of jobs ahead of the consumer."""
    if workers == 0:
        yield from map(work, jobs)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pictures")
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) > workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

"""What a run is fed with: for each of its method's streams the pictures in their order, and how many of them a step takes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from tutelage.batch import Batch, Stream, shared_out
from tutelage.data.duplicates import shared
from tutelage.data.index import FileSource, Pictures
from tutelage.data.order import Draws, chain, mix
from tutelage.data.streams import PictureStream, batches
from tutelage.engine.settings import RunSettings
from tutelage.errors import listed

Micro = dict[str, Batch]
"""What a forward pass takes: a batch of each stream, by name."""


@dataclass(frozen=True)
class Feed:
    """One stream of a run."""

    stream: PictureStream
    batch_size: int
    """Pictures a step, over all processes and micro-batches."""

    def chain(self, first_step: int, last_step: int) -> int:
        """The links of its pictures from one step up to, not including, another, summed modulo 2^64."""
        count = len(self.stream.pictures)
        return chain(first_step * self.batch_size, last_step * self.batch_size, count, self.stream.seed)


@dataclass(frozen=True)
class Feeds:
    """All streams of a run. The first is the one whose pictures make an epoch."""

    by_name: dict[str, Feed]

    @property
    def main(self) -> Feed:
        """The first."""
        return next(iter(self.by_name.values()))

    @property
    def batch_size(self) -> int:
        """Pictures a step."""
        return sum(feed.batch_size for feed in self.by_name.values())

    def chain(self, first_step: int, last_step: int) -> int:
        """The data chain of the steps from one up to, not including, another."""
        return sum(feed.chain(first_step, last_step) for feed in self.by_name.values()) % 2**64

    def steps(self, first_step: int, last_step: int, **options: int) -> Iterator[list[Micro]]:
        """A rank's micro-batches of each step; `options` are those of `data.streams.batches`."""
        sources = [
            batches(feed.stream, first_step=first_step, last_step=last_step, batch_size=feed.batch_size, **options)
            for feed in self.by_name.values()
        ]
        try:
            for step in zip(*sources, strict=True):
                yield [dict(zip(self.by_name, parts, strict=True)) for parts in zip(*step, strict=True)]
        finally:
            for source in sources:
                source.close()  # type: ignore[attr-defined]

    def notes(self, pictures: Pictures) -> list[str]:
        """What is to be known of labels: pictures without one that nobody uses, and such as also come with one."""
        if pictures.of_parts:
            return []
        kinds = {feed.stream.labels for feed in self.by_name.values()}
        unknown = pictures.subset(pictures.labels < 0)
        if kinds == {"known"} and len(unknown):
            names = listed([unknown.name(i) for i in range(min(6, len(unknown)))])
            return [f"{len(unknown):,} training pictures have no label and are not used ({names})"]
        if kinds == {"known", "unknown"} and isinstance(pictures.source, FileSource):
            known, other = np.zeros((2, len(pictures.source)), dtype=np.bool_)
            known[pictures.ids[pictures.labels >= 0]], other[unknown.ids] = True, True
            if found := shared(pictures.source, known, other):
                return [found.told(int(known.sum()), "labelled pictures are among those without a label")]
        return []

    def names(self, batch: Micro) -> list[str]:
        """Of the pictures of a micro-batch."""
        pictures = {name: feed.stream.pictures for name, feed in self.by_name.items()}
        return [pictures[name].name(int(i)) for name, part in batch.items() for i in part.indices]


def open_feeds(streams: dict[str, Stream], pictures: Pictures, settings: RunSettings[Any]) -> Feeds:
    """The streams over `pictures`; those after the first in an order and with draws of their own."""
    sizes = shared_out(settings.batch_size, streams)
    feeds = {}
    for k, (name, stream) in enumerate(streams.items()):
        seed = settings.seed if k == 0 else mix(settings.seed, "stream", name) % 2**63
        size, views = settings.backbone.size, settings.views
        own = PictureStream(pool(pictures, stream), stream, views, size, settings.num_patches, seed)
        feeds[name] = Feed(own, sizes[name])
    return Feeds(feeds)


def pool(pictures: Pictures, stream: Stream) -> Pictures:
    """The pictures that a stream may have."""
    if stream.labels == "tagged":
        tagged = pictures.tagged()
        return repeated(tagged, stream.oversample) if stream.oversample else tagged
    if stream.labels == "any":
        return pictures
    return pictures.subset((pictures.labels >= 0) == (stream.labels == "known"))


def repeated(pictures: Pictures, least: float) -> Pictures:
    """The pictures, those with rare tags several times (`Tags.factors`).

    What a factor has beyond a whole number is a chance, drawn by the picture's name: every epoch has the same pictures.
    """
    assert pictures.tags is not None
    chances = [Draws(mix(pictures.name(i), "repeated")).uniform() for i in range(len(pictures))]
    times = np.floor(pictures.tags.factors(pictures.ids, least) + chances).astype(np.int64)
    return pictures.subset(np.repeat(np.arange(len(pictures)), times))

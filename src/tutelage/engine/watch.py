"""Is it learning? Asked of pictures that are held out of training, a few times in a run."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tutelage.average_precision import FoundObjects
from tutelage.batch import Batch, Objects, normalise, to_unit
from tutelage.clock import Clock
from tutelage.confusion import confusion, overlap
from tutelage.data.index import Data, Pictures, Statistics
from tutelage.data.joint import framed
from tutelage.data.streams import eval_batches
from tutelage.detections import Found
from tutelage.detector import find
from tutelage.distributed import world_size
from tutelage.encoder import encode
from tutelage.engine.feeds import open_feeds
from tutelage.engine.settings import RunSettings
from tutelage.engine.train import Numerics
from tutelage.method import Method, Output
from tutelage.methods.detection import Detection
from tutelage.monitors import classified, feature_std, knn_accuracy, monitor, rank_me, tagged
from tutelage.pictures import Marked, detections, draw_step, neighbours, segmentations
from tutelage.sheet import save

BANK = 2_000
"""Training pictures whose labels vote."""
QUERIES = 1_000
"""Held-out pictures that ask."""
SHOWN = 6
"""Pictures with masks or objects that are drawn."""
DETECTED = 100
"""Pictures on which objects are sought."""
PIXELS = 2**28
"""Of the pictures that ask or vote at most: fewer of large ones."""
PASS = 64
"""Pictures an encoder pass takes at once."""


class Watch:
    """Holds the pictures that are asked, and asks."""

    def __init__(self, data: Data, settings: RunSettings[Any], numerics: Numerics) -> None:
        self.settings, self.numerics = settings, numerics
        asked, self.unseen = _asked(data)
        held = PIXELS // math.prod(settings.backbone.size)
        known = asked.labelled() if asked.has_labels and asked.tags is None else asked.tagged()
        self.queries = (known if len(known) else asked).spread(min(QUERIES, held))
        votes = data.train.has_labels and self.unseen and not data.train.of_parts
        self.bank = data.train.labelled().spread(min(BANK, held)) if votes else None
        streams = {name: stream._replace(labels="any") for name, stream in settings.method.streams.items()}
        feeds = open_feeds(streams, asked, settings).by_name
        looked = min(len(asked), settings.batch_size, 256)
        if asked.of_parts:  # whole scenes: no more than a pass takes
            looked = min(looked, settings.micro_batch or settings.batch_size // world_size())
        self.batch = {name: feed.stream.batch(np.arange(looked)) for name, feed in feeds.items()}
        self._kept: dict[str, list[Batch]] = {}

    @property
    def _whose(self) -> str:
        """How captions call the pictures that are asked."""
        return "Held-out" if self.unseen else "Training"

    def due(self, clock: Clock) -> bool:
        """Whether the step that led to `clock` is one after which to ask: before the first, and spread over the run."""
        times = min(self.settings.monitors, clock.total_steps // 4)
        return times > 0 and clock.step * times // clock.total_steps > (clock.step - 1) * times // clock.total_steps

    @torch.no_grad()
    def ask(self, method: Method, clock: Clock) -> dict[str, Any]:
        """A line of monitors.jsonl."""
        training = method.training
        method.eval()
        features, labels = self._features(method, "queries", self.queries)
        line: dict[str, Any] = {"step": clock.step, "epoch": round(clock.epochs, 4)}
        if self.bank is not None and self.queries.has_labels:
            bank, bank_labels = self._features(method, "bank", self.bank)
            line["knn_accuracy"] = knn_accuracy(bank, bank_labels, features, labels)
        if (self.bank is not None and self.queries.has_labels) or (self.queries.tags and self.unseen):
            line |= self._classified(method)
        if self.queries.masks is not None and self.unseen:
            line |= self._segmented(method)
        if isinstance(method, Detection) and self.unseen:
            line |= self._detected(method)
        line |= {"rank_me": rank_me(features), "feature_std": feature_std(features)}
        line |= monitor(method, self.look(method, clock), self.settings.num_patches)
        method.train(training)
        return line

    def _classified(self, method: Method) -> dict[str, float]:
        """What the method's own classifier says of the pictures that ask, where it trains one."""
        found = []
        for batch in self._kept["queries"]:
            if (logits := self._logits(method, batch)) is None:
                return {}
            found.append(logits)
        logits, kept = torch.cat(found), self._kept["queries"]
        if self.queries.tags:
            tags = [row for batch in kept if batch.tags is not None for row in batch.tags]
            return tagged(logits, pad_sequence(tags, batch_first=True, padding_value=-1))
        return classified(logits, torch.cat([batch.labels for batch in kept]))

    def _logits(self, method: Method, batch: Batch) -> Tensor | None:
        """What the method's own classifier says of plain pictures, on the CPU; None where it trains none."""
        with self.numerics.cast():
            logits = method.logits(self.numerics.ready(batch).views[0])
        return None if logits is None else logits.cpu()

    def _segmented(self, method: Method) -> dict[str, float]:
        """How well the method names the pixels of the pictures that ask."""
        num_classes = len(self.queries.classes)
        table = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        for batch in self._kept["queries"]:
            logits = self._logits(method, batch)
            assert logits is not None and batch.masks is not None
            table += confusion(logits.argmax(1), batch.masks, num_classes)
        found = overlap(table)
        return {"miou": found.miou, "pixel_accuracy": found.accuracy}

    def _detected(self, method: Detection) -> dict[str, float]:
        """How well the method finds what lies on some of the pictures that ask."""
        found = FoundObjects(self.queries.classes, masks=method.settings.masks)
        for picture, truth in self._with_objects(DETECTED):
            found.add(truth, self._find(method, picture), (picture.shape[-2], picture.shape[-1]))
        line = {"box_ap": found.precision("bbox").ap}
        return line | ({"mask_ap": found.precision("segm").ap} if method.settings.masks else {})

    def _with_objects(self, count: int) -> Iterator[tuple[Tensor, Objects]]:
        """Some of the pictures that ask, whole, with what lies on them."""
        pictures = self.queries.spread(count)
        for i in range(len(pictures)):
            number, picture = pictures.fetch(i)
            truth = pictures.objects(number, picture)
            assert truth is not None
            yield picture, truth

    def _find(self, method: Detection, picture: Tensor) -> Found:
        """What lies on a picture, on the CPU."""
        view, inside = framed(picture, self.settings.backbone.size, self.settings.views.detect.test_short)
        x = normalise(view[None].to(self.numerics.device), self.numerics.mean, self.numerics.std)
        with self.numerics.cast():
            return find(method, x, inside, (picture.shape[-2], picture.shape[-1]))

    @torch.no_grad()
    def look(self, method: Method, clock: Clock) -> Output:
        """The method's own step on held-out pictures, without drop path and without learning."""
        training = method.training
        method.eval()
        with self.numerics.cast():
            output: Output = method(self.numerics.prepare(self.batch), clock)
        method.train(training)
        return output

    @torch.no_grad()
    def draw(self, method: Method, clock: Clock, statistics: Statistics, folder: Path) -> None:
        """Pictures of what the method sees, and of which held-out pictures it finds alike."""
        method.eval()
        draw_step(method, self.numerics.prepare(self.batch), self.look(method, clock), statistics, folder)
        features, labels = self._features(method, "queries", self.queries)
        views = torch.cat([batch.views[0] for batch in self._kept["queries"]])
        if self.queries.masks is not None:
            self._draw_masks(method, folder)
        if isinstance(method, Detection):
            self._draw_objects(method, folder)
        if self.queries.of_parts:
            labels = torch.full_like(labels, -1)
        sheet = neighbours(views, features, labels=labels, classes=self.queries.classes, whose=self._whose)
        sheet.save(folder / "neighbours.png")

    def _draw_masks(self, method: Method, folder: Path) -> None:
        batch = self._kept["queries"][0]
        logits = self._logits(method, batch)
        assert logits is not None and batch.masks is not None
        items = list(zip(to_unit(batch.views[0]), batch.masks, logits.argmax(1), strict=True))[:SHOWN]
        note = f"{self._whose} pictures, what is known of each pixel, and what is predicted."
        note += " Pixels without a colour do not count."
        sheet = segmentations(items, ("picture", "known", "predicted"), self.queries.classes, note)
        save(sheet, folder / "masks.png")

    def _draw_objects(self, method: Detection, folder: Path) -> None:
        items = []
        for picture, truth in self._with_objects(SHOWN):
            found = self._find(method, picture).surest(len(truth.labels))  # early in a run nothing is sure
            shown = Marked(found.as_objects((picture.shape[-2], picture.shape[-1])), tuple(found.scores.tolist()))
            items.append((to_unit(picture), (Marked(truth), shown)))
        note = f"{self._whose} pictures, what is known to lie there, and as many of what is found, the surest."
        save(detections(items, ("picture", "known", "found"), self.queries.classes, note), folder / "objects.png")

    def sample(self) -> Tensor:
        """A few held-out pictures, normalised, on the CPU: an export is compared on them."""
        self._keep("queries", self.queries)
        return (
            self._kept["queries"][0]
            .normalised(self.numerics.mean.cpu().float(), self.numerics.std.cpu().float())
            .views[0][:8]
        )

    def _keep(self, name: str, pictures: Pictures) -> None:
        """Read the pictures once."""
        if name not in self._kept:
            self._kept[name] = list(eval_batches(pictures, self.settings.backbone.size, PASS))

    def _features(self, method: Method, name: str, pictures: Pictures) -> tuple[Tensor, Tensor]:
        """Class tokens of whole pictures, and their labels."""
        self._keep(name, pictures)
        tokens = list(_class_tokens(method, self._kept[name], self.numerics))
        return torch.cat(tokens).float(), torch.cat([batch.labels for batch in self._kept[name]])


def _class_tokens(method: Method, batches: Iterable[Batch], numerics: Numerics) -> Iterable[Tensor]:
    for batch in batches:
        with numerics.cast():
            (x,) = numerics.ready(batch).views
            yield encode(method.encoder, x).cls[:, 0].cpu()


def _asked(data: Data) -> tuple[Pictures, bool]:
    """Held-out pictures and True, or where there are none training ones; of a set with masks or objects those that have any."""
    held_out, train = (part.labelled() if part.of_parts else part for part in (data.held_out, data.train))
    return (held_out, True) if len(held_out) else (train, False)

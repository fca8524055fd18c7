"""What corrupted pictures cost: a classifier that learned from clean ones is asked about the same test pictures corrupted."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from tutelage.classifiers import Classifier, load_any_classifier
from tutelage.config import Count, Settings
from tutelage.data.corruptions import KINDS, SEVERITIES, Corruption, Kind, corrupted
from tutelage.data.index import Pictures, open_data
from tutelage.data.streams import eval_batches
from tutelage.evaluation.classifier import columns_of
from tutelage.evaluation.corruption_error import Robustness
from tutelage.evaluation.features import Say, features, normalised, tokens_of, untrained
from tutelage.evaluation.linear import CachedSettings, choose_cached
from tutelage.evaluation.parts import Labelled, Parts, asked, labelled_parts, seen_before
from tutelage.evaluation.result import Row, Score, remember
from tutelage.export import Encoder, load_encoder

VERSION = 1
"""Goes up when the protocol's numbers change, and so when a corruption does."""
_CACHED = CachedSettings()
CLEAN = None
"""In the place of a corruption: the picture as it is."""


_NONE = {"corruption_error": "no errors", "relative_corruption_error": "no more errors than on clean pictures"}
"""Why a kind has no such number."""


class RobustnessSettings(Settings):
    """Which corruptions, how strong, and of how many pictures."""

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = KINDS
    """Kinds of corruption; by default all fifteen."""
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = SEVERITIES
    """How strong, of 1 to 5."""
    test_pictures: Count = 1000
    """Test pictures, evenly spread: each is asked for once clean, and once in each kind and severity."""

    @property
    def corruptions(self) -> list[Corruption]:
        """Each kind in each severity, once."""
        return [Corruption(kind, s) for kind in dict.fromkeys(self.kinds) for s in sorted(set(self.severities))]


class Judge(NamedTuple):
    """Somebody who names the classes of pictures."""

    encoder: Classifier
    token: str
    held_out: float | None
    """Share of clean held-out pictures that are named right; None of a run's own classifier, which may have learned them."""
    name_classes: Callable[[Tensor], Int[Tensor, " b"]]
    """Views [b, c, h, w] on the device to classes on the CPU."""


def evaluate_robustness(
    where: str,
    data: str,
    settings: RobustnessSettings,
    *,
    baseline: str | None = None,
    baselines: bool = True,
    classifier: bool = False,
    linear: CachedSettings = _CACHED,
    labels: str | None = None,
    teacher: str | None = None,
    train_pictures: int | None = None,
    device: torch.device | str | None = None,
    workers: int = 0,
    say: Say | None = None,
) -> Robustness:
    """Errors of a classifier on corrupted test pictures, and mean corruption errors against that of a baseline.

    The classifier is linear-cached's, on the frozen encoder: learned from clean training pictures, token and learning rate
    chosen on clean held-out ones. With `classifier` it is the one that the run trained. `baseline` names another encoder
    (or run with a classifier); by default it is the same encoder untrained with a linear classifier, and without
    `baselines` there is none. Pictures are corrupted in the plain view that an encoder gets. The result is appended to
    the run's evaluations.jsonl.

    Raises CheckpointError for the encoders (K-07 without a classifier); DataError as `evaluate_all` and, for a classifier of
    other classes, D-26.
    """
    start = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_data(data, labels=labels)
    parts, notes = labelled_parts(opened)
    notes += seen_before(where, opened)
    if train_pictures is not None:
        parts = parts.spread(train_pictures)
    parts = parts._replace(test=parts.test.spread(settings.test_pictures))
    bench = _Bench(parts, data, linear, device, workers, say)
    judges = [bench.judge(where, classifier, teacher)]
    if baselines:
        judges.insert(0, bench.judge(baseline, classifier) if baseline else bench.untrained(where, judges[0]))
    corruptions = settings.corruptions
    wrong = bench.errors(judges, parts.test, [CLEAN, *corruptions])
    names = ([baseline or "untrained"] if baselines else []) + ["classifier" if classifier else "encoder"]
    found = Robustness(
        protocol=f"robustness/{VERSION}",
        settings={
            **settings.model_dump(mode="json"),
            "severities": sorted(set(settings.severities)),
            "classifier": "the run's" if classifier else linear.model_dump(mode="json"),
        },
        teacher=teacher,
        rows=tuple(_row(*one, corruptions) for one in zip(names, judges, wrong, strict=True)),
        notes=(*notes, *bench.notes),
        seconds=round(time.perf_counter() - start, 3),
        **asked(where, judges[-1].encoder, opened, parts),
    )
    found = replace(found, notes=(*found.notes, *_remarks(found)))
    remember(where, [found])
    return found


Errors = dict[Corruption | None, float]


def _row(name: str, judge: Judge, errors: Errors, corruptions: Sequence[Corruption]) -> Row:
    by_kind: dict[str, list[float]] = {}
    for one in corruptions:
        by_kind.setdefault(one.kind, []).append(errors[one])
    mean = sum(sum(some) / len(some) for some in by_kind.values()) / len(by_kind)
    details = {"clean_error": errors[CLEAN], "errors": by_kind}
    return Row(name, {judge.token: Score(judge.held_out, 1 - mean, details)})


def _remarks(found: Robustness) -> list[str]:
    """What a reader must know about the mean corruption errors."""
    if not found.compared:
        return []
    remarks = []
    for name, told in _NONE.items():
        if kinds := [kind for kind, row in found.corruptions().items() if row[name] is None]:
            remarks.append(f"the baseline makes {told} under {', '.join(kinds)}: no part of the mean")
    return remarks


class _Bench:
    """The pictures, and how judges are made and asked."""

    def __init__(
        self,
        parts: Parts,
        data: str,
        linear: CachedSettings,
        device: torch.device | str,
        workers: int,
        say: Say | None,
    ) -> None:
        self.parts, self.data, self.linear = parts, data, linear
        self.batch_size = 32 if str(device) == "cpu" else 256
        self.passes: dict[str, Any] = {"device": device, "workers": workers, "say": say}
        self.notes: list[str] = []

    def judge(self, where: str, classifier: bool, teacher: str | None = None) -> Judge:
        """The classifier of a run, or a linear one on an encoder."""
        if classifier:
            return self._trained(where)
        return self._taught(load_encoder(where, teacher=teacher, device=self.passes["device"]))

    def untrained(self, where: str, like: Judge) -> Judge:
        """A linear classifier on the same architecture with fresh weights; of two streams, on that of the encoder."""
        encoder = like.encoder if isinstance(like.encoder, Encoder) else load_encoder(where)
        return self._taught(untrained(encoder))

    def _taught(self, who: Encoder) -> Judge:
        device, chosen = self.passes["device"], {}
        parts = [features(who, part, batch_size=self.batch_size, **self.passes) for part in self.parts[:2]]
        for token in ("cls", "mean"):
            train, held_out = (Labelled(getattr(part, token).to(device), part.labels.to(device)) for part in parts)
            chosen[token] = choose_cached(train, held_out, len(self.parts.train.classes), self.linear)
        token = max(chosen, key=lambda name: chosen[name].held_out)

        def name_classes(views: Tensor) -> Tensor:
            return chosen[token].predict(getattr(tokens_of(who, views), token)).cpu()

        return Judge(who, token, chosen[token].held_out, name_classes)

    def _trained(self, where: str) -> Judge:
        classifier = load_any_classifier(where)
        classifier.vit.to(self.passes["device"])
        columns, notes = columns_of(classifier, where, self.parts.test, self.data)
        self.notes += notes

        @torch.no_grad()
        def name_classes(views: Tensor) -> Tensor:
            x = normalised(views, classifier.statistics, classifier.channels)
            logits: Tensor = classifier.vit(x).cpu()
            return logits[:, columns].argmax(dim=1)

        return Judge(classifier, "head", None, name_classes)

    def errors(
        self, judges: Sequence[Judge], pictures: Pictures, corruptions: Sequence[Corruption | None]
    ) -> list[Errors]:
        """Share of the pictures that each judge names wrong, by corruption; judges of one size see the same pictures."""
        wrong: list[Counter[Corruption | None]] = [Counter() for _ in judges]
        device, workers, say = self.passes.values()
        for size in dict.fromkeys(judge.encoder.size for judge in judges):
            done = 0
            for batch in eval_batches(pictures, size, self.batch_size, workers):
                numbers = pictures.ids[batch.indices.numpy()].tolist()
                for corruption, views in corrupted(batch.views[0], numbers, corruptions, workers):
                    for judge, count in zip(judges, wrong, strict=True):
                        if judge.encoder.size == size:
                            named = judge.name_classes(views.to(device))
                            count[corruption] += int((named != batch.labels).sum())
                done += len(numbers)
                if say:
                    say(f"robustness  {done:,} of {len(pictures):,} pictures, each in {len(corruptions)} ways")
        return [{one: count[one] / len(pictures) for one in corruptions} for count in wrong]

"""`evaluate`: how good an encoder is, beside raw pixels and the same encoder untrained, by a named protocol."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tutelage.config import Settings
from tutelage.data.index import Data, Pictures, open_data
from tutelage.errors import DataError, MachineError, SettingsError
from tutelage.evaluation.features import Features, Say, features, pixel_features, untrained
from tutelage.evaluation.knn import KNNSettings, knn_accuracies
from tutelage.evaluation.linear import CachedSettings, MAESettings, train_cached, train_mae
from tutelage.export import Encoder, load_encoder

VERSION = 1
"""Goes up when a protocol's numbers change."""
_Protocol = KNNSettings | CachedSettings | MAESettings
_NAMES: dict[type[Settings], str] = {KNNSettings: "knn", CachedSettings: "linear-cached", MAESettings: "linear-mae"}


class Score(NamedTuple):
    """Shares of pictures whose class is predicted, 0 to 1."""

    held_out: float
    test: float
    details: dict[str, Any]
    """The learning rate that was chosen, or the test accuracy for each k."""


@dataclass(frozen=True)
class Row:
    """The scores of one kind of features."""

    name: str
    scores: dict[str, Score]
    """By token: `cls`, `mean`, or `pixels`."""

    @property
    def token(self) -> str:
        """The token that is better on held-out pictures; of equal ones the class token."""
        return max(self.scores, key=lambda token: self.scores[token].held_out)

    @property
    def accuracy(self) -> float:
        """The headline: accuracy on test pictures of the token that was chosen on held-out ones."""
        return self.scores[self.token].test


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. The last row is the encoder's."""

    protocol: str
    """Name and version, as `knn/1`."""
    settings: dict[str, Any]
    encoder: str
    origin: str
    """The folder that the weights were read from."""
    teacher: str | None
    architecture: str
    data: str
    fingerprint: str
    pictures: dict[str, int]
    """Number of labelled pictures of each part: `train`, `held_out`, `test`."""
    num_classes: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def accuracy(self) -> float:
        """The encoder's headline, 0 to 1."""
        return self.rows[-1].accuracy

    def to_json(self) -> dict[str, Any]:
        """Plain values; accuracies are shares, 0 to 1."""
        rows = [
            {
                "name": row.name,
                "token": row.token,
                "accuracy": row.accuracy,
                "scores": {token: score._asdict() for token, score in row.scores.items()},
            }
            for row in self.rows
        ]
        return {**vars(self), "notes": list(self.notes), "accuracy": self.accuracy, "rows": rows}

    def table(self) -> list[str]:
        """Lines for a terminal; accuracies in per cent."""
        parts = ", ".join(f"{count:,} {name.replace('_', '-')}" for name, count in self.pictures.items())
        lines = [
            f"{self.protocol} on {self.data}: {parts} pictures, {self.num_classes} classes",
            f"  {'features':<18} {'token':<7} {'held-out':>9} {'test':>7}",
        ]
        for row in self.rows:
            for token, score in row.scores.items():
                mark = " <" if token == row.token and len(row.scores) > 1 else ""
                name = row.name if token == next(iter(row.scores)) else ""
                lines.append(f"  {name:<18} {token:<7} {100 * score.held_out:>9.2f} {100 * score.test:>7.2f}{mark}")
        lines += [f"  note: {note}" for note in self.notes]
        what = "  <: the token that is better on held-out pictures; its test accuracy is the result"
        return [*lines, what, f"accuracy {100 * self.accuracy:.2f} % ({self.encoder}, {self.seconds:.1f} s)"]


class _Parts(NamedTuple):
    train: Pictures
    held_out: Pictures
    test: Pictures


class _Found(NamedTuple):
    """Features of the parts."""

    train: Features
    held_out: Features
    test: Features


def evaluate(
    protocol: Literal["knn", "linear"],
    where: str,
    data: str,
    *,
    linear_protocol: Literal["cached", "mae"] = "cached",
    baselines: bool = True,
    teacher: str | None = None,
    epochs: int | None = None,
    train_pictures: int | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    say: Say | None = None,
) -> Evaluation:
    """How well an encoder's frozen features tell the classes of `data` apart.

    Learning rate and token are chosen on the held-out part, and the test part is asked once. `where` names the encoder as
    in `load_encoder`; the result for a run is also appended to its evaluations.jsonl. `epochs` is for `linear`, by default
    the protocol's. `train_pictures` takes that many labelled training pictures, evenly spread, and at most a quarter as many
    held-out ones. `batch_size` is how many pictures the encoder takes at once: by default 32 on a CPU, else 256.

    Raises CheckpointError for the encoder, DataError for pictures that cannot be used or have no labels (D-10).
    """
    start = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = _settings(protocol, linear_protocol, epochs)
    encoder = load_encoder(where, teacher=teacher, device=device)
    opened = open_data(data)
    parts, notes = _labelled_parts(opened)
    if train_pictures is not None and train_pictures < len(parts.train):
        parts = parts._replace(
            train=_spread(parts.train, train_pictures), held_out=_spread(parts.held_out, max(1, train_pictures // 4))
        )
        notes.append(
            f"{len(parts.train):,} training and {len(parts.held_out):,} held-out pictures are used, evenly spread"
        )
    batch_size = batch_size or (32 if str(device) == "cpu" else 256)
    judge = _Judge(settings, parts, device, batch_size, workers, say)
    rows = [judge.pixels(encoder), judge.encoder("untrained", untrained(encoder))] if baselines else []
    rows.append(judge.encoder("encoder", encoder))
    evaluation = Evaluation(
        protocol=f"{_NAMES[type(settings)]}/{VERSION}",
        settings=settings.model_dump(mode="json"),
        encoder=where,
        origin=encoder.origin,
        teacher=teacher,
        architecture=encoder.architecture,
        data=opened.name,
        fingerprint=opened.fingerprint,
        pictures={name: len(part) for name, part in parts._asdict().items()},
        num_classes=judge.num_classes,
        rows=tuple(rows),
        notes=(*notes, *_remarks(settings, len(parts.train), baselines)),
        seconds=round(time.perf_counter() - start, 3),
    )
    _remember(Path(where).expanduser(), evaluation)
    return evaluation


def _spread(pictures: Pictures, count: int) -> Pictures:
    """At most `count` pictures, evenly spread over the set."""
    return pictures.subset(np.linspace(0, len(pictures) - 1, min(count, len(pictures))).astype(np.int64))


def _settings(protocol: str, linear_protocol: str, epochs: int | None) -> _Protocol:
    if protocol == "knn":
        if epochs is not None or linear_protocol != "cached":
            raise SettingsError("C-40", "knn trains nothing: epochs and a linear protocol belong to 'linear'.")
        return KNNSettings()
    kind: Callable[..., CachedSettings | MAESettings] = MAESettings if linear_protocol == "mae" else CachedSettings
    return kind() if epochs is None else kind(epochs=epochs)


def _labelled_parts(data: Data) -> tuple[_Parts, list[str]]:
    """The labelled pictures of each part, and what to say about them. Raises DataError D-10 or D-15."""
    parts = _Parts(data.train.labelled(), data.held_out.labelled(), data.test.labelled())
    counts = {name: len(part) for name, part in parts._asdict().items()}
    if not any(counts.values()):
        raise DataError(
            "D-10",
            f"{data.name} has no labels.",
            "Accuracy cannot be measured without them.",
            "Give class folders, or a CSV file with the columns path and label.",
        )
    empty = [name.replace("_", "-") for name, count in counts.items() if not count]
    if empty:
        raise DataError(
            "D-10", f"{data.name} has no labelled {' and no '.join(empty)} pictures.", todo="Label more of them."
        )
    if len(set(parts.train.labels.tolist())) < 2:
        raise DataError(
            "D-15", f"the labelled training pictures of {data.name} are all of one class.", todo="Label another."
        )
    notes = [note for note in data.found.notes if "testing" in note or "held out" in note]
    unlabelled = len(data.train) + len(data.held_out) + len(data.test) - sum(counts.values())
    if unlabelled:
        notes.append(f"{unlabelled:,} pictures without a label are not used")
    unseen = set(parts.test.labels.tolist()) - set(parts.train.labels.tolist())
    if unseen:
        names = ", ".join(parts.train.classes[k] for k in sorted(unseen)[:5])
        notes.append(f"{len(unseen)} classes have test pictures but no training picture, and count as wrong: {names}")
    return parts, notes


def _remarks(settings: _Protocol, count: int, baselines: bool) -> list[str]:
    """What a reader must know about the protocol, on `count` training pictures."""
    remarks = []
    if isinstance(settings, KNNSettings) and max(settings.k, *settings.also) > count:
        remarks.append(f"k is at most {count}, the number of training pictures")
    if isinstance(settings, MAESettings) and count < 100_000:
        remarks.append(
            f"MAE's protocol is made for ImageNet: on {count:,} pictures it learns little; see linear-cached"
        )
    if isinstance(settings, MAESettings) and baselines:
        remarks.append("raw pixels are judged by linear-cached")
    return remarks


@dataclass(frozen=True)
class _Judge:
    """A protocol on labelled pictures: makes a row of scores of an encoder."""

    settings: _Protocol
    parts: _Parts
    device: torch.device | str
    batch_size: int
    workers: int
    say: Say | None

    @property
    def num_classes(self) -> int:
        return len(self.parts.train.classes)

    def encoder(self, name: str, who: Encoder) -> Row:
        passes: dict[str, Any] = {"device": self.device, "workers": self.workers, "say": self.say}
        found = _Found(*(features(who, part, batch_size=self.batch_size, **passes) for part in self.parts))
        if isinstance(self.settings, MAESettings):
            heads = train_mae(who, self.parts.train, self.num_classes, self.settings, **passes)
            return Row(name, {token: self._of_head(head, found, token) for token, head in heads.items()})
        return Row(name, {token: self._score(self.settings, found, token) for token in ("cls", "mean")})

    def pixels(self, like: Encoder) -> Row:
        """The pixels that an encoder gets. MAE's protocol has no such row: the cached one stands in."""
        plain = CachedSettings(epochs=self.settings.epochs) if isinstance(self.settings, MAESettings) else self.settings
        found = _Found(*(pixel_features(p, like.size, like.statistics, workers=self.workers) for p in self.parts))
        return Row("raw pixels", {"pixels": self._score(plain, found, "cls")})

    def _score(self, settings: KNNSettings | CachedSettings, found: _Found, token: str) -> Score:
        x, held_out, test = (getattr(part, token).to(self.device) for part in found)
        y, y_held_out, y_test = (part.labels.to(self.device) for part in found)
        if isinstance(settings, KNNSettings):
            k, *ks = (min(k, len(x)) for k in (settings.k, *settings.also))
            options: dict[str, Any] = {"ks": tuple(sorted({k, *ks})), "temperature": settings.temperature}
            options["num_classes"] = self.num_classes
            on_held_out = knn_accuracies(x, y, held_out, y_held_out, **options)
            on_test = knn_accuracies(x, y, test, y_test, **options)
            return Score(on_held_out[k], on_test[k], {"k": k, "test_by_k": {str(k): on_test[k] for k in on_test}})
        heads = train_cached(x, y, self.num_classes, settings)
        rates = [_share(predicted, y_held_out) for predicted in heads.predict(held_out)]
        best = max(range(len(rates)), key=rates.__getitem__)
        chosen = {"learning_rate": settings.learning_rates[best]}
        return Score(rates[best], _share(heads.predict(test)[best], y_test), chosen)

    def _of_head(self, head: torch.nn.Module, found: _Found, token: str) -> Score:
        with torch.no_grad():
            held_out, test = (
                _share(head(getattr(part, token).to(self.device)).argmax(dim=1).cpu(), part.labels)
                for part in found[1:]
            )
        return Score(held_out, test, {})


def _share(predicted: Tensor, labels: Tensor) -> float:
    return float((predicted == labels).double().mean())


def _remember(where: Path, evaluation: Evaluation) -> None:
    """Append the result to evaluations.jsonl where the encoder is a run."""
    if not (where / "settings.json").is_file():
        return
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **evaluation.to_json()}, ensure_ascii=False)
    try:
        with (where / "evaluations.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise MachineError(
            "R-03", f"{where}/evaluations.jsonl cannot be written: {error.strerror or error}."
        ) from error

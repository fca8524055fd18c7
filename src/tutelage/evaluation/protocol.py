"""How good an encoder is, beside raw pixels and the same encoder untrained, by one protocol or by several in one pass."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from tutelage.config import Settings
from tutelage.data.index import Data, Pictures, open_data
from tutelage.errors import SettingsError, nearest
from tutelage.evaluation.features import Features, Say, features, pixel_features, untrained
from tutelage.evaluation.knn import KNNSettings, score_knn
from tutelage.evaluation.linear import CachedSettings, MAESettings, score_cached, share, train_mae
from tutelage.evaluation.low_shot import LowShotSettings, refuse_small_classes, score_low_shot
from tutelage.evaluation.parts import Parts, Seen, asked, labelled_parts, seen_before
from tutelage.evaluation.result import Evaluation, Row, Score, remember
from tutelage.export import Encoder, load_encoder

VERSION = 1
"""Goes up when a protocol's numbers change."""
Name = Literal["knn", "linear", "low-shot"]
Protocol = KNNSettings | CachedSettings | MAESettings | LowShotSettings
_NAMES: dict[type[Settings], str] = {
    KNNSettings: "knn",
    CachedSettings: "linear-cached",
    MAESettings: "linear-mae",
    LowShotSettings: "low-shot",
}
_LOW_SHOT = LowShotSettings()


def protocols_of(
    names: Iterable[str],
    *,
    linear_protocol: Literal["cached", "mae"] = "cached",
    epochs: int | None = None,
    low_shot: LowShotSettings = _LOW_SHOT,
) -> tuple[Protocol, ...]:
    """The settings of the named protocols. Raises SettingsError C-40 (a setting that none of them has), C-41 (a name)."""
    names = tuple(names)
    if "linear" not in names and (epochs is not None or linear_protocol != "cached"):
        raise SettingsError("C-40", f"epochs and a linear protocol belong to 'linear', not to {', '.join(names)}.")
    if "low-shot" not in names and low_shot != _LOW_SHOT:
        raise SettingsError("C-40", f"shots, draws and C belong to 'low-shot', not to {', '.join(names)}.")
    linear = MAESettings if linear_protocol == "mae" else CachedSettings
    made: dict[str, Protocol] = {
        "knn": KNNSettings(),
        "linear": linear() if epochs is None else linear(epochs=epochs),
        "low-shot": low_shot,
    }
    for name in names:
        if name not in made:
            raise SettingsError("C-41", f"there is no protocol '{name}'.", todo=nearest(name, made))
    return tuple(made[name] for name in names)


def evaluate_all(
    protocols: Sequence[Protocol],
    where: str,
    data: str,
    *,
    baselines: bool = True,
    labels: str | None = None,
    teacher: str | None = None,
    train_pictures: int | None = None,
    device: torch.device | str | None = None,
    batch_size: int | None = None,
    workers: int = 0,
    say: Say | None = None,
) -> list[Evaluation]:
    """How well an encoder's frozen features tell the classes of `data` apart, by each protocol.

    An encoder sees each picture once, and the protocols share what it gives (only `linear-mae` sees training pictures again,
    augmented). Token, learning rate and C are chosen on the held-out part, and the test part is asked once. `where` names
    the encoder as in `load_encoder`, and `labels` are those of `open_data`; results for a run are also appended to its
    evaluations.jsonl. `train_pictures` takes that many labelled training pictures, evenly spread, and at most a quarter as
    many held-out ones. `batch_size` is how many pictures the encoder takes at once: by default 32 on a CPU, else 256.
    `workers` threads prepare pictures ahead.

    Raises CheckpointError for the encoder; DataError for pictures that cannot be used or have no labels (D-10), and for
    classes smaller than the shots of low-shot (D-16).
    """
    start = time.perf_counter()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(where, teacher=teacher, device=device)
    opened = open_data(data, labels=labels)
    parts, notes, whole = _parts(opened, train_pictures, protocols)
    notes += seen_before(where, opened)
    judge = _Judge(protocols, parts, device, batch_size or (32 if str(device) == "cpu" else 256), workers, say)
    rows = list(judge.rows(encoder, baselines))
    evaluations = [
        Evaluation(
            protocol=f"{_NAMES[type(settings)]}/{VERSION}",
            settings=settings.model_dump(mode="json"),
            teacher=teacher,
            rows=tuple(row[i] for row in rows),
            notes=(*notes, *_remarks(settings, parts, baselines, whole)),
            seconds=round(time.perf_counter() - start, 3),
            **asked(where, encoder, opened, parts),
        )
        for i, settings in enumerate(protocols)
    ]
    remember(where, evaluations)
    return evaluations


def _parts(data: Data, train_pictures: int | None, protocols: Sequence[Protocol]) -> tuple[Parts, list[str], bool]:
    """The pictures to use, what to say about them, and whether they are a training set less what is held out of it."""
    parts, notes = labelled_parts(data)
    whole = any("training pictures are held out" in note for note in notes)
    if train_pictures is not None and train_pictures < len(parts.train):
        parts, whole = parts.spread(train_pictures), False
        notes.append(
            f"{len(parts.train):,} training and {len(parts.held_out):,} held-out pictures are used, evenly spread"
        )
    for settings in protocols:
        if isinstance(settings, LowShotSettings):
            refuse_small_classes(parts.train, settings)
    return parts, notes, whole


def _remarks(settings: Protocol, parts: Parts, baselines: bool, whole: bool) -> list[str]:
    """What a reader must know about the protocol on these pictures."""
    remarks, train, held_out = [], len(parts.train), len(parts.held_out)
    if isinstance(settings, LowShotSettings):
        remarks.append(
            f"{settings.draws} draws; one C for each k and token, chosen on {held_out:,} held-out pictures with their labels"
        )
    elif whole:
        chosen = "token and learning rate" if isinstance(settings, CachedSettings) else "token"
        remarks.append(
            f"{train:,} of {train + held_out:,} training pictures teach, the others choose the {chosen}: papers teach with all"
        )
    if isinstance(settings, KNNSettings) and max(settings.k, *settings.also) > train:
        remarks.append(f"k is at most {train}, the number of training pictures")
    if isinstance(settings, MAESettings) and train < 100_000:
        remarks.append(
            f"MAE's protocol is made for ImageNet: on {train:,} pictures it learns little; see linear-cached"
        )
    if isinstance(settings, MAESettings) and baselines:
        remarks.append("raw pixels are judged by linear-cached")
    return remarks


@dataclass(frozen=True)
class _Judge:
    """Protocols on labelled pictures: make rows of scores of an encoder, one for each protocol."""

    protocols: Sequence[Protocol]
    parts: Parts
    device: torch.device | str
    batch_size: int
    workers: int
    say: Say | None

    @property
    def num_classes(self) -> int:
        return len(self.parts.train.classes)

    def rows(self, encoder: Encoder, baselines: bool) -> Iterator[list[Row]]:
        if baselines:
            yield self._pixels(encoder)
            yield self._encoder("untrained", untrained(encoder))
        yield self._encoder("encoder", encoder)

    def _encoder(self, name: str, who: Encoder) -> list[Row]:
        passes: dict[str, Any] = {"device": self.device, "workers": self.workers}

        def compute(part: Pictures, what: str) -> Features:
            told = partial(self._tell, more=f" · {name} · {what}")
            return features(who, part, batch_size=self.batch_size, say=told, **passes)

        seen = Seen(self.parts, compute)
        rows = []
        for settings in self.protocols:
            if isinstance(settings, MAESettings):
                heads = train_mae(who, self.parts.train, self.num_classes, settings, say=self.say, **passes)
                rows.append(Row(name, {token: self._of_head(head, seen, token) for token, head in heads.items()}))
            else:
                rows.append(Row(name, {token: self._score(settings, seen, token) for token in ("cls", "mean")}))
        return rows

    def _tell(self, text: str, more: str) -> None:
        if self.say:
            self.say(text + more)

    def _pixels(self, like: Encoder) -> list[Row]:
        """The pixels that an encoder gets. MAE's protocol has no such row: the cached one stands in."""
        seen = Seen(self.parts, lambda part, _: pixel_features(part, like.size, like.statistics, workers=self.workers))
        plain = [CachedSettings(epochs=s.epochs) if isinstance(s, MAESettings) else s for s in self.protocols]
        return [Row("raw pixels", {"pixels": self._score(settings, seen, "cls")}) for settings in plain]

    def _score(self, settings: KNNSettings | CachedSettings | LowShotSettings, seen: Seen, token: str) -> Score:
        if isinstance(settings, LowShotSettings):
            return score_low_shot(seen.split(token, "cpu"), self.num_classes, settings, self.say)
        split = seen.split(token, self.device)
        if isinstance(settings, KNNSettings):
            return score_knn(split, self.num_classes, settings)
        return score_cached(split, self.num_classes, settings)

    def _of_head(self, head: nn.Module, seen: Seen, token: str) -> Score:
        with torch.no_grad():
            held_out, test = (
                share(head(getattr(part, token).to(self.device)).argmax(dim=1).cpu(), part.labels)
                for part in (seen.held_out, seen.test)
            )
        return Score(held_out, test, {})

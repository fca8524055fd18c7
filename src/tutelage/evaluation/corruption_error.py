"""Errors on corrupted pictures, beside a baseline's (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.evaluation.result import Evaluation

_COLUMNS = {"error": 100, "baseline_error": 100, "corruption_error": 1, "relative_corruption_error": 1}
"""Numbers of a kind, and what makes them per cent."""
_HEADS = ("error", "baseline", "CE", "rel. CE")


def corruption_error(errors: Sequence[float], baseline: Sequence[float]) -> float | None:
    """CE: errors at the severities of a kind, summed, of the baseline's, in per cent; None where that makes none."""
    return 100 * sum(errors) / sum(baseline) if sum(baseline) > 0 else None


def relative_corruption_error(
    errors: Sequence[float], clean: float, baseline: Sequence[float], baseline_clean: float
) -> float | None:
    """Relative CE: what a kind adds to the clean error, of what it adds to the baseline's, in per cent.

    None where it adds nothing to the baseline's: there is then nothing to compare with.
    """
    added = sum(error - clean for error in errors)
    baseline_added = sum(error - baseline_clean for error in baseline)
    return 100 * added / baseline_added if baseline_added > 0 else None


@dataclass(frozen=True)
class Robustness(Evaluation):
    """What `evaluate robustness` found: the baseline's row, where there is one, and the encoder's.

    A row's test accuracy is that on corrupted pictures, the mean over kinds of the mean over severities; its details are
    `clean_error`, and `errors` by kind, one for each severity. All are shares, 0 to 1.
    """

    @property
    def compared(self) -> bool:
        """Whether there is a baseline."""
        return len(self.rows) > 1

    @property
    def clean_errors(self) -> tuple[float, ...]:
        """On pictures as they are: the encoder's, and the baseline's."""
        return tuple(_details(self, row)["clean_error"] for row in range(len(self.rows) - 1, -1, -1))

    def corruptions(self) -> dict[str, dict[str, Any]]:
        """By kind: the encoder's errors, their mean and the baseline's as shares, CE and relative CE in per cent."""
        own, base = _details(self, -1), _details(self, 0)
        found: dict[str, dict[str, Any]] = {}
        for kind, errors in own["errors"].items():
            found[kind] = {"errors": errors, "error": _mean(errors)}
            if self.compared:
                other, cleans = base["errors"][kind], (own["clean_error"], base["clean_error"])
                found[kind] |= {
                    "baseline_error": _mean(other),
                    "corruption_error": corruption_error(errors, other),
                    "relative_corruption_error": relative_corruption_error(errors, cleans[0], other, cleans[1]),
                }
        return found

    def mean(self, name: str) -> float | None:
        """The mean over kinds of one number of `corruptions`; kinds that have none are left out, and None is of none.

        mCE is that of `corruption_error`, relative mCE that of `relative_corruption_error`.
        """
        values = [row[name] for row in self.corruptions().values() if row.get(name) is not None]
        return _mean(values) if values else None

    def to_json(self) -> dict[str, Any]:
        """Plain values; errors are shares, 0 to 1, mean corruption errors are in per cent of the baseline's."""
        return {
            **super().to_json(),
            "baseline": self.rows[0].name if self.compared else None,
            "clean_error": self.clean_errors[0],
            "mean_corruption_error": self.mean("corruption_error"),
            "relative_mean_corruption_error": self.mean("relative_corruption_error"),
            "corruptions": self.corruptions(),
        }

    def table(self) -> list[str]:
        """Lines for a terminal; everything in per cent."""
        parts = ", ".join(f"{count:,} {name.replace('_', '-')}" for name, count in self.pictures.items())
        severities, names = self.settings["severities"], list(_COLUMNS)[: 4 if self.compared else 1]
        blank = [None] * len(severities)
        lines = [
            f"{self.protocol} on {self.data}: {parts} pictures, {self.num_classes} classes",
            _line("error in %", [*(f"at {s}" for s in severities), *_HEADS[: len(names)]]),
            _line("clean", [*blank, *(100 * error for error in self.clean_errors)]),
        ]
        for kind, row in self.corruptions().items():
            lines.append(_line(kind, [*(100 * e for e in row["errors"]), *(_percent(n, row[n]) for n in names)]))
        lines.append(_line("mean", [*blank, *(_percent(name, self.mean(name)) for name in names)]))
        return [*lines, *(f"  note: {note}" for note in self.notes), *self._headline()]

    def _headline(self) -> list[str]:
        clean, corrupt = 100 * self.clean_errors[0], 100 - 100 * self.accuracy
        who = f"({self.encoder}, {self.seconds:.1f} s)"
        if not self.compared:
            return [f"error {corrupt:.2f} % on corrupted pictures, {clean:.2f} % on clean ones {who}"]
        mce, relative = (
            "none" if value is None else f"{value:.1f} %"
            for value in (self.mean("corruption_error"), self.mean("relative_corruption_error"))
        )
        return [
            f"  CE: of the errors of the baseline ({self.rows[0].name}); rel. CE: of what corruption adds to them",
            f"mean corruption error {mce}, relative {relative}; error {corrupt:.2f} % on corrupted pictures, "
            f"{clean:.2f} % on clean ones {who}",
        ]


def _details(found: Robustness, row: int) -> dict[str, Any]:
    return found.rows[row].scores[found.rows[row].token].details


def _percent(name: str, value: float | None) -> float | None:
    return None if value is None else _COLUMNS[name] * value


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _line(name: str, cells: Sequence[float | str | None]) -> str:
    """A name and columns of numbers; nothing stands where there is none."""
    shown = (cell if isinstance(cell, str) else "" if cell is None else f"{cell:.1f}" for cell in cells)
    return f"  {name:<15}" + "".join(f"{cell:>9}" for cell in shown).rstrip()

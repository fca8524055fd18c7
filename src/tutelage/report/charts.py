"""Charts of a run as SVG files: few lines, each with its name at its end instead of a legend."""

import io
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tutelage.report.collect import Record, Row, prototypes_of

POINTS = 300
"""A line has at most about this many points; each is the median of its stretch."""
COLOURS = ("#1f4e79", "#b3402f", "#2f7d5b", "#8a5a9e", "#a07a1a")
GREY = "#8a8a8a"
NAME_LENGTH = 16
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#c8c8c8",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.labelcolor": "#6f6f6f",
    "xtick.color": "#6f6f6f",
    "ytick.color": "#6f6f6f",
    "xtick.labelcolor": "#6f6f6f",
    "ytick.labelcolor": "#6f6f6f",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#ececec",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "tutelage",
    "svg.fonttype": "path",
    "text.parse_math": False,
}

Points = list[tuple[float, float]]


class Chart(NamedTuple):
    """A chart, and what it shows in words."""

    title: str
    note: str
    svg: bytes


def charts(record: Record) -> list[Chart]:
    """The charts that a run has numbers for."""
    method = record.settings.get("method")
    tags = isinstance(method, dict) and method.get("name") == "weakly_supervised"
    prototypes = prototypes_of(method)
    chance = math.log(prototypes) if isinstance(prototypes, int) and prototypes > 1 else None
    metrics, monitors = record.metrics, record.monitors
    kinds = ("class", "patch")
    drawn = [
        _chart("Loss", "What is minimised: the weighted sum of the parts.", {"loss": _line(metrics, "loss")}),
        _chart(
            "Label losses",
            "In nats. A label head that tells no more than a uniform guess stays at the grey line.",
            {f"{kind} labels": _line(metrics, kind) for kind in kinds},
            marks={f"ln {prototypes}": chance} if chance else {},
        ),
        _chart(
            "Cross-entropy",
            f"Of what is trained on {'tags' if tags else 'labels'}, in nats: on training and on held-out pictures.",
            {
                "training": _line(metrics, "cross_entropy"),
                "auxiliary": _line(metrics, "auxiliary"),
                "guessed labels": _line(metrics, "unlabelled"),
                "held out": _line(monitors, "cross_entropy"),
            },
            zero=True,
        ),
        _chart(
            "Classifier",
            "On held-out pictures with a tag: how many are named by one of their tags."
            if tags
            else "On held-out pictures: how many it names right, of how many it is sure, how many of those are right, and how "
            "evenly its guesses are spread over the classes.",
            {
                "right": _line(monitors, "classifier_accuracy"),
                "sure": _line(monitors, "sure_share"),
                "sure and right": _line(monitors, "sure_accuracy"),
                "evenly guessed": _line(monitors, "guess_entropy"),
            },
            percent=True,
        ),
        _chart(
            "Masks",
            "On held-out pictures: intersection over union, the mean over the classes, and how many pixels are named right.",
            {"mIoU": _line(monitors, "miou"), "pixels": _line(monitors, "pixel_accuracy")},
            percent=True,
        ),
        _chart(
            "Objects",
            "On held-out pictures: COCO's average precision of boxes and of masks.",
            {"boxes": _line(monitors, "box_ap"), "masks": _line(monitors, "mask_ap")},
            percent=True,
        ),
        _chart(
            "Consistency",
            "Squared error between what student and teacher rebuild, in training.",
            {"consistency": _line(metrics, "consistency")},
            zero=True,
        ),
        _chart(
            "Reconstruction",
            "On held-out pictures: the model's loss, and that of a constant answer per position.",
            {
                "model": _line(monitors, "reconstruction_loss"),
                "constant": _line(monitors, "position_constant_loss"),
            },
            zero=True,
        ),
        _chart(
            "kNN accuracy",
            "Held-out pictures named by their 20 nearest training pictures.",
            {"kNN": _line(monitors, "knn_accuracy")},
            percent=True,
        ),
        _chart(
            "RankMe", "About how many directions the features use.", {"RankMe": _line(monitors, "rank_me")}, zero=True
        ),
        _chart(
            "Feature standard deviation",
            "1 is evenly spread, 0 is collapse.",
            {"std": _line(monitors, "feature_std")},
            zero=True,
        ),
        _chart(
            "Prototypes used",
            "First choice of at least one of the held-out pictures, or of their patches.",
            {f"{kind}": _line(monitors, f"{kind}_prototypes_used") for kind in kinds},
            zero=True,
            marks={f"all {prototypes}": float(prototypes)} if chance and isinstance(prototypes, int) else {},
        ),
        _chart(
            "Distance of the teachers",
            "From the student, over the length of the student's weights.",
            {
                name.removesuffix("_teacher_distance"): _line(monitors, name)
                for name in sorted({name for row in monitors for name in row if name.endswith("_teacher_distance")})
            },
            zero=True,
        ),
        _chart("Learning rate", "A warm-up, then down to the end of the run.", {"lr": _line(metrics, "lr")}, zero=True),
    ]
    return [chart for chart in drawn if chart]


def _line(rows: Sequence[Row], name: str) -> Points:
    """(epoch, or step where there is none; value) of the rows that have it, thinned to medians."""
    points = [
        (_x(row), float(row[name]))
        for row in rows
        if isinstance(row.get(name), int | float) and math.isfinite(row[name]) and math.isfinite(_x(row))
    ]
    size = math.ceil(len(points) / POINTS) or 1
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(group[len(group) // 2][0], median(y for _, y in group)) for group in groups]


def _x(row: Row) -> float:
    epoch: Any = row.get("epoch")
    return float(epoch) if isinstance(epoch, int | float) else float(row["step"])


def _chart(
    title: str,
    note: str,
    lines: Mapping[str, Points],
    *,
    marks: Mapping[str, float] | None = None,
    zero: bool = False,
    percent: bool = False,
) -> Chart | None:
    """A chart of the lines that have two points or more; nothing when there is none."""
    lines = {name: points for name, points in lines.items() if len(points) > 1}
    if not lines:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.5))
        axes = figure.add_axes((0.105, 0.17, 0.665, 0.80))
        for points, colour in zip(lines.values(), COLOURS, strict=False):
            axes.plot(*zip(*points, strict=True), color=colour, marker="o" if len(points) < 25 else "", markersize=3)
        for value in (marks or {}).values():
            axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        if zero:
            axes.set_ylim(bottom=0)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("epoch")
        axes.margins(x=0.01)
        _name_lines(axes, lines, marks or {}, one=len(lines) == 1 and not marks)
        content = io.BytesIO()
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return Chart(title, note, content.getvalue())


def _name_lines(axes: Axes, lines: Mapping[str, Points], marks: Mapping[str, float], *, one: bool) -> None:
    """The name of each line at its right end, moved apart where ends meet; the last value where there is one line."""
    ends = [(points[-1][1], name, colour) for (name, points), colour in zip(lines.items(), COLOURS, strict=False)]
    ends += [(value, name, GREY) for name, value in marks.items()]
    low, high = axes.get_ylim()
    height, place = 0.095 * (high - low), -math.inf
    for value, name, colour in sorted(ends):
        place = max(place + height, value)
        axes.annotate(
            ("" if name == "lr" else _short(value, percent=name == "kNN")) if one else _fit(name),
            xy=(1, place),
            xycoords=("axes fraction", "data"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=9,
            annotation_clip=False,
        )


def _fit(name: str) -> str:
    """As much of a name as there is room for."""
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _short(value: float, *, percent: bool) -> str:
    return f"{value:.1%}" if percent else f"{value:.3g}"

"""Write the tables and charts of docs/results.md again from the lines of the learning bench.

    .venv/bin/python benchmarks/learning/page.py

Between `<!-- learning TABLE SCALE -->` and `<!-- end -->` the page gets the table of these lines, and a chart where rows
have a curve; between `<!-- monitor TABLE SCALE NAME -->` and `<!-- end -->` a chart of what a monitor said during the
runs; between `<!-- dynamics -->` and `<!-- end -->` those of dynamics.py. Nothing between the two is written by hand.
Accuracies are in per cent, the mean over the seeds and, behind ±, its standard error; the token (class or mean) was chosen
on held-out pictures. The table of the trials has the accuracies on held-out pictures, that of speeds the time of a picture
as a multiple of MAE's with the same seed.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from tables import FEW_LABELS, TABLES, name_of

from tutelage.comparison import HEADINGS
from tutelage.evaluation.corruption_error import corruption_error

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs"
BLOCK = re.compile(r"(<!-- learning (?P<table>\S+) (?P<scale>\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
MONITOR = re.compile(r"(<!-- monitor (\S+) (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
MONITORS = {
    "class_gain": "nats that the class loss is below a uniform guess",
    "distinct_matches": "share of a picture's teacher tokens that is matched",
    "position_constant_share": "share of the target that a constant per position explains",
}
DYNAMICS = re.compile(r"(<!-- dynamics -->\n).*?(<!-- end -->)", re.DOTALL)
PROTOCOLS = {name: HEADINGS[name] for name in ("knn/1", "linear-cached/1", "low-shot/1")}
Line = dict[str, Any]
matplotlib.rcParams["svg.hashsalt"] = "tutelage"


Measure = Callable[[dict[str, Any]], float]
MEASURES: dict[str, dict[str, Measure]] = {
    "segment": {
        "mIoU": lambda scores: scores["segmenter"]["test"],
        "mIoU, held out": lambda scores: scores["segmenter"]["held_out"],
        "pixels": lambda scores: scores["segmenter"]["details"]["pixel_accuracy"],
    },
    "detect": {
        "AP of boxes": lambda scores: scores["boxes"]["test"],
        "AP of boxes, held out": lambda scores: scores["boxes"]["held_out"],
        "AP50": lambda scores: scores["boxes"]["details"]["ap50"],
        "AP of masks": lambda scores: scores["masks"]["test"],
    },
}
"""What the tables of what encoders are good for show, shares by the scores of what was judged."""


GRIDS = {
    "hashtags": [
        ("linear", "linear-cached/1", "encoder"),
        ("kNN", "knn/1", "encoder"),
        ("10-shot", "low-shot/1", "encoder"),
    ],
    "hashtags-finetuned": [("fine-tuned", "classifier/1", "classifier")],
}
"""What is shown of MAE, then tags: a name, a protocol and what it judged."""


def page() -> None:
    """Fill every block of the page."""
    file = DOCS / "results.md"
    text = BLOCK.sub(lambda m: m[1] + block(m["table"], m["scale"]) + m[4], file.read_text())
    text = MONITOR.sub(lambda m: m[1] + monitored(m[2], m[3], m[4]) + m[5], text)
    file.write_text(DYNAMICS.sub(lambda m: m[1] + dynamics() + m[2], text))


def found(table: str, scale: str) -> dict[str, dict[str, list[Line]]]:
    """The lines of a table by data set and row, rows in the table's order."""
    lines = [json.loads(line) for line in (HERE / f"{scale}.jsonl").read_text().splitlines()]
    by_data: dict[str, dict[str, list[Line]]] = defaultdict(lambda: defaultdict(list))
    for row in TABLES[table]:
        own = [line for line in lines if line["key"].startswith(name_of(table, row))]
        if own:
            by_data[row.data][row.name] = own
    return by_data


def block(table: str, scale: str) -> str:
    """Tables of all data sets, and their charts."""
    out = []
    if table in ("speed", "few-speed"):
        return speeds(found(table, scale)["fashion-mnist"])
    if table in MEASURES:
        (rows,) = found(table, scale).values() or ({},)
        return downstream(rows, MEASURES[table])
    if table == "finetune":
        rows, frozen = found(table, scale)["fashion-mnist"], found("sizes", scale)["fashion-mnist"]
        return by_labels(rows, ("100%", "10%", "1%"), above="from scratch") + by_shots(frozen)
    if table == "robustness":
        return by_kind(found(table, scale)["fashion-mnist"])
    if table in GRIDS:
        return "".join(grid(found(table, scale)["fashion-mnist"], *of) for of in GRIDS[table])
    if table in ("few-tuning", "few-longer"):
        return classifiers(found(table, scale)["fashion-mnist"])
    if table == "few":
        rows = found(table, scale)["fashion-mnist"]
        return by_labels(rows, FEW_LABELS) + guesses(rows, DOCS / "pictures" / f"learning-few-{scale}.svg")
    for data, rows in found(table, scale).items():
        if all(line["table"] != table for lines in rows.values() for line in lines):
            continue  # nothing of its own yet
        columns = ["row", *PROTOCOLS.values(), "pictures seen", "pictures/s", "seeds"]
        out += [f"\n**{data}**\n", f"| {' | '.join(columns)} |"]
        out += ["|" + "---|" * len(columns)]
        for name, lines in rows.items():
            out += table_rows(name, lines, "held_out" if table == "tuning" else "test")
        own = [lines for lines in rows.values() if lines[0]["table"] == table]
        if sum(any(len(line["judged"]) > 1 for line in lines) for lines in own) > 1:
            picture = DOCS / "pictures" / f"learning-{table}-{data}-{scale}.svg"
            chart(rows, data, picture, found("speed", scale)["fashion-mnist"])
            out += [f"\n![accuracy against pictures seen and against time](pictures/{picture.name})"]
    return "\n".join(out) + "\n\n"


def speeds(rows: dict[str, list[Line]]) -> str:
    """Pictures a second of short runs that took turns, and the time of a picture beside MAE's."""
    out = ["\n| method | pictures/s | time, MAE = 1 |", "|---|---|---|"]
    of_mae = {line["seed"]: line["images_per_second"] for line in rows["MAE"]}
    for name, lines in rows.items():
        ratios = [of_mae[line["seed"]] / line["images_per_second"] for line in lines]
        out.append(
            f"| {name} | {pictures_a_second(lines):.0f} | {mean(ratios):.2f} ± {stdev(ratios) / len(ratios) ** 0.5:.2f} |"
        )
    return "\n".join(out) + "\n\n"


def by_labels(rows: dict[str, list[Line]], counts: Sequence[str], above: str = "") -> str:
    """Accuracy of the runs' own classifiers by how many labels there were; rows are called METHOD, COUNT.

    And by how much each is `above` a method, if one is named.
    """
    methods = list(dict.fromkeys(name.rpartition(", ")[0] for name in rows if name.rpartition(", ")[2] in counts))
    out = [f"\n| method | pictures seen | {' | '.join(counts)} | seeds |", "|---" * (len(counts) + 3) + "|"]
    for method in methods:
        own = [rows.get(f"{method}, {labels}", []) for labels in counts]
        scores = [[accuracy(last(line), "classifier/1", "classifier") for line in lines] for lines in own]
        cells = [spread(values) for values in scores]
        seen = ", ".join(dict.fromkeys(f"{line['row']['pictures']:,}" for lines in own for line in lines))
        out.append(f"| {method} | {seen} | {' | '.join(cells)} | {', '.join(str(len(lines)) for lines in own)} |")
    for method in methods if above else ():
        if method != above:
            gains = [
                gain(
                    *(
                        by_seed(rows.get(f"{one}, {labels}", []), "classifier/1", "classifier")
                        for one in (method, above)
                    )
                )
                for labels in counts
            ]
            out.append(f"| {method}, above {above} with the same seed | | {' | '.join(gains)} | |")
    return "\n".join(out) + "\n\n"


def by_shots(rows: dict[str, list[Line]]) -> str:
    """Accuracy of a classifier on frozen features by how many pictures of each class had a label, of whole sets' encoders."""
    shots = ("1", "2", "5", "10")
    out = [f"\n| frozen encoder of | {' | '.join(f'{k} a class' for k in shots)} |", "|---" * (len(shots) + 1) + "|"]
    for name, lines in rows.items():
        if name.endswith(", 100 %"):
            by_k = [chosen(last(line), "low-shot/1")["details"]["test_by_k"] for line in lines]
            out.append(
                f"| {name.partition(',')[0]} | {' | '.join(spread([100 * own[k] for own in by_k]) for k in shots)} |"
            )
    return "\n".join(out) + "\n\n"


def by_kind(rows: dict[str, list[Line]]) -> str:
    """Errors of each encoder on clean pictures and by kind of corruption (over its severities), and mean corruption errors."""
    told = {name: {line["seed"]: by_name(line)["encoder"]["details"] for line in lines} for name, lines in rows.items()}
    kinds = list(dict.fromkeys(kind for own in told.values() for one in own.values() for kind in one["errors"]))
    measures: dict[str, Measure] = {
        "clean": lambda one: one["clean_error"],
        **{kind: lambda one, kind=kind: mean(one["errors"][kind]) for kind in kinds},
        "mean of the kinds": lambda one: mean(map(mean, one["errors"].values())),
    }
    out = [f"\n| error of | {' | '.join(told)} |", "|---" * (len(told) + 1) + "|"]
    for name, measure in measures.items():
        cells = [spread([100 * measure(one) for one in own.values()]) for own in told.values()]
        out.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    for other in ("MAE", "untrained"):
        base = told.get(other, {})
        each = [
            [mean_corruption_error(one, base[seed]) for seed, one in own.items() if seed in base]
            for own in told.values()
        ]
        out.append(f"| mCE, {other} of the same seed = 100 | {' | '.join(map(spread, each))} |")
    return "\n".join(out) + "\n\n"


def mean_corruption_error(own: dict[str, Any], other: dict[str, Any]) -> float:
    """The mean over kinds, in per cent of the other's errors."""
    return mean(corruption_error(errors, other["errors"][kind]) for kind, errors in own["errors"].items())


def classifiers(rows: dict[str, list[Line]]) -> str:
    """Accuracy of the runs' own classifiers on held-out pictures, and what was last said of guessed labels."""
    columns = ["row", "held out", "guesses that count, %", "of these right, %", "pictures seen", "seeds"]
    out = [f"\n| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, lines in rows.items():
        cells = [spread([accuracy(last(line), "classifier/1", "classifier", "held_out") for line in lines])]
        for monitor in ("sure_share", "sure_accuracy"):
            said = [100 * line["monitors"][-1][monitor] for line in lines if monitor in line["monitors"][-1]]
            cells.append(f"{mean(said):.0f}" if said else "")
        seen = lines[0]["row"]["pictures"]
        out.append(f"| {' | '.join([name, *cells, f'{seen:,}', str(len(lines))])} |")
    return "\n".join(out) + "\n\n"


def grid(rows: dict[str, list[Line]], title: str, protocol: str, judged: str) -> str:
    """Accuracy by epochs of MAE (down) and then of tags (across), a table for each width; 0 and 0 is the untrained encoder.

    Under it what MAE before the tags adds to runs with the same seed, and to each of the two alone for as long.
    """
    cells: dict[str, dict[tuple[float, float], dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for name, lines in rows.items():
        width, *stages = name.split(", ")
        epochs = dict(stage.split() for stage in stages if stage != "untrained")
        place = float(epochs.get("MAE", 0)), float(epochs.get("tags", 0))
        cells[width][place] = by_seed(lines, protocol, judged)
    out = []
    for width, own in cells.items():
        before, after = (sorted({place[i] for place in own}) for i in (0, 1))
        out += [f"\n**{title}, {width}**\n", f"| MAE, epochs | {' | '.join(f'{a:g} of tags' for a in after)} |"]
        out.append("|---" * (len(after) + 1) + "|")
        for b in before:
            row = [spread([*own[b, a].values()]) for a in after]
            out.append(f"| {b:g} | {' | '.join(row)} |")
        if min(len(before), len(after)) < 3:
            continue  # there is nothing to compare yet
        for b in (b for b in before if b and own[b, after[-2]]):
            row = [gain(own[b, a], own[0, a]) if a else "" for a in after]
            out.append(f"| {b:g}, above 0 with the same seed | {' | '.join(row)} |")
        both, tags, mae = own[before[-2], after[-2]], own[0, after[-1]], own[before[-1], 0]
        out.append(
            f"\n{before[-2]:g} of MAE and {after[-2]:g} of tags, beside {after[-1]:g} of tags alone: {gain(both, tags)}; "
            f"beside {before[-1]:g} of MAE alone: {gain(both, mae)}."
        )
    return "\n".join(out) + "\n\n"


def by_seed(lines: list[Line], protocol: str, judged: str) -> dict[int, float]:
    """Accuracies at the last step."""
    return {line["seed"]: accuracy(last(line), protocol, judged) for line in lines}


def gain(own: dict[int, float], other: dict[int, float]) -> str:
    """By how much one is above the other with the same seed: the mean, and behind ± its standard error; empty of no seed."""
    text = spread([own[seed] - other[seed] for seed in own.keys() & other.keys()])
    return text if text.startswith("-") or not text else f"+{text}"


def guesses(rows: dict[str, list[Line]], file: Path) -> str:
    """A chart of how many guessed labels counted in the course of the runs, and how many of these were right."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    axes = figure.subplots(2, len(FEW_LABELS), sharex=True, sharey="row", squeeze=False)
    colours: dict[str, str] = {}
    for name, lines in rows.items():
        method, _, labels = name.rpartition(", ")
        if labels not in FEW_LABELS:
            continue
        for axis, monitor in zip(axes[:, FEW_LABELS.index(labels)], ("sure_share", "sure_accuracy"), strict=True):
            answers: dict[float, list[float]] = defaultdict(list)
            for line in lines:
                for answer in line["monitors"]:
                    if monitor in answer:
                        answers[answer["step"] / line["monitors"][-1]["step"]].append(100 * answer[monitor])
            if answers:
                colour = colours.setdefault(method, f"C{len(colours)}")
                axis.plot(answers.keys(), [mean(v) for v in answers.values()], color=colour)
            axis.spines[["top", "right"]].set_visible(False)
    for column, labels in enumerate(FEW_LABELS):
        axes[0][column].set_title(f"{labels} labels")
        axes[1][column].set_xlabel("share of the run")
    axes[0][0].set_ylabel("guesses that count, %")
    axes[1][0].set_ylabel("of these right, %")
    drawn = [Line2D([], [], color=colour) for colour in colours.values()]
    figure.legend(drawn, colours.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(file, metadata={"Date": None})
    return f"![share and accuracy of guessed labels](pictures/{file.name})\n\n"


def downstream(rows: dict[str, list[Line]], measures: dict[str, Measure]) -> str:
    """What was measured on test pictures, in per cent, of the rows that were judged.

    And the first measure above that of the row from scratch with the same seed and head.
    """
    columns = ["row", *measures, "above scratch", "pictures seen", "pictures/s", "seeds"]
    out = [f"\n| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    first = next(iter(measures.values()))
    judged = {name: {line["seed"]: by_name(line) for line in lines if last(line)} for name, lines in rows.items()}
    for name, lines in rows.items():
        if judged[name]:
            cells = [
                spread([100 * measure(scores) for scores in judged[name].values()]) for measure in measures.values()
            ]
            scratch = "from scratch" + (", linear head" if name.endswith(", linear head") else "")
            pair = [
                {seed: 100 * first(scores) for seed, scores in judged.get(one, {}).items()} for one in (name, scratch)
            ]
            more = "" if name == scratch else gain(*pair)
            seen = f"{lines[0]['row']['pictures']:,}"
            out.append(
                f"| {' | '.join([name, *cells, more, seen, f'{pictures_a_second(lines):.0f}', str(len(judged[name]))])} |"
            )
    return "\n".join(out) + "\n\n"


def pictures_a_second(lines: list[Line]) -> float:
    """The mean over seeds."""
    return mean(line["images_per_second"] for line in lines)


def monitored(table: str, scale: str, monitor: str) -> str:
    """A chart of a monitor against steps, the mean over seeds, of the rows that have it."""
    out = []
    for data, rows in found(table, scale).items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axis = figure.subplots()
        for name, lines in rows.items():
            answers: dict[int, list[float]] = defaultdict(list)
            for line in lines:
                for answer in line.get("monitors", ()):
                    if monitor in answer:
                        answers[answer["step"]].append(answer[monitor])
            if answers:
                axis.plot(answers.keys(), [mean(v) for v in answers.values()], label=name)
        axis.set(xlabel="step", ylabel=MONITORS[monitor])
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=7)
        picture = DOCS / "pictures" / f"{monitor}-{table}-{data}-{scale}.svg"
        picture.parent.mkdir(exist_ok=True)
        figure.savefig(picture, metadata={"Date": None})
        out.append(f"\n![{MONITORS[monitor]}, against steps](pictures/{picture.name})\n")
    return "".join(out) + "\n"


def dynamics() -> str:
    """The angle between RC-MAE's two gradients in training, and what its teacher takes back (the lines of dynamics.py)."""
    lines = [json.loads(line) for line in (HERE / "dynamics.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(12, 4), layout="constrained")
    left, *rest = figure.subplots(1, 3)
    for mask, right in zip(("same", "different"), rest, strict=True):
        own = [line for line in lines if line["mask"] == mask]
        steps = [int(step) for step in own[0]["cosines"]]
        angles = [[math.degrees(math.acos(line["cosines"][str(step)])) for line in own] for step in steps]
        (drawn,) = left.plot(steps, [mean(a) for a in angles], marker="o", markersize=3, label=f"{mask} mask")
        left.fill_between(
            steps, *map(list, zip(*((min(a), max(a)) for a in angles), strict=True)), alpha=0.2, linewidth=0
        )
        x, y = zip(*(pair for line in own for pair in line["corrections"]), strict=True)
        right.scatter(x, y, s=4, alpha=0.4, linewidths=0, color=drawn.get_color())
        right.axhline(0, color="grey", linestyle=":", linewidth=1)
        right.set(
            title=f"{mask} mask",
            xlabel="likeness to the picture of the last update\n(cosine of class tokens)",
            ylabel="share of that update, a unit of learning rate\n(below 0 is taken back)",
        )
    left.axhline(90, color="grey", linestyle=":", linewidth=1)
    left.set(title="between the two gradients", xlabel="step", ylabel="angle, degrees", yticks=range(90, 181, 30))
    left.legend(frameon=False, fontsize=8)
    for axis in (left, *rest):
        axis.spines[["top", "right"]].set_visible(False)
    picture = DOCS / "pictures" / "dynamics.svg"
    figure.savefig(picture, metadata={"Date": None})
    return f"\n![angle between gradients, and corrections by similarity](pictures/{picture.name})\n\n"


def table_rows(name: str, lines: list[Line], part: str) -> list[str]:
    """The row's line, and before an untrained encoder's one for raw pixels."""
    seen, out = lines[0]["row"]["pictures"], []
    if not seen:
        out.append(f"| raw pixels | {' | '.join(score(lines[:1], part, 'raw pixels'))} | 0 | | |")
    speed = f"{pictures_a_second(lines):.0f}" if seen else ""
    cells = [name, *score(lines, part), f"{seen:,}", speed, str(len(lines))]
    out.append(f"| {' | '.join(cells)} |")
    return out


def score(lines: list[Line], part: str, name: str = "encoder") -> list[str]:
    """Mean and standard error of each protocol at the end of the runs, on test or held-out pictures."""
    return [spread([accuracy(last(line), protocol, name, part) for line in lines]) for protocol in PROTOCOLS]


def last(line: Line) -> list[Line]:
    """What was found at the last step."""
    return list(line["judged"][max(line["judged"], key=int)])


def chosen(judged: list[Line], protocol: str, name: str = "encoder") -> dict[str, Any]:
    """Of the token that was chosen."""
    row = next(row for row in judged if (row["protocol"], row["name"]) == (protocol, name))
    return dict(row["scores"][row["token"]])


def by_name(line: Line) -> dict[str, dict[str, Any]]:
    """At the last step, the scores of each that was judged."""
    return {row["name"]: row["scores"][row["token"]] for row in last(line)}


def accuracy(judged: list[Line], protocol: str, name: str = "encoder", part: str = "test") -> float:
    """Per cent."""
    return float(100 * chosen(judged, protocol, name)[part])


def spread(values: list[float]) -> str:
    """Mean ± standard error; empty of nothing."""
    if not values:
        return ""
    return f"{mean(values):.1f}" + (f" ± {stdev(values) / len(values) ** 0.5:.1f}" if len(values) > 1 else "")


def chart(rows: dict[str, list[Line]], data: str, file: Path, timed: dict[str, list[Line]]) -> None:
    """kNN and linear accuracy against pictures seen, and against minutes at the speeds of the `timed` runs.

    A band of one standard error.
    """
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row")
    for name, lines in rows.items():
        curves = [line for line in lines if len(line["judged"]) > 1]
        for i, protocol in enumerate(("knn/1", "linear-cached/1")):
            if not curves:
                if not lines[0]["row"]["pictures"]:
                    level = mean(accuracy(last(line), protocol) for line in lines)
                    for axis in axes[i]:
                        axis.axhline(level, color="grey", linestyle=":", linewidth=1, label=name)
                continue
            steps = sorted(int(step) for step in curves[0]["judged"])
            values = [[accuracy(line["judged"][str(step)], protocol) for line in curves] for step in steps]
            middle = [mean(v) for v in values]
            error = [stdev(v) / len(v) ** 0.5 if len(v) > 1 else 0.0 for v in values]
            batch, speed = curves[0]["settings"]["batch_size"], pictures_a_second(timed.get(name, curves))
            for axis, unit in zip(axes[i], (1e3, speed * 60), strict=True):
                x = [step * batch / unit for step in steps]
                (drawn,) = axis.plot(x, middle, marker="o", markersize=3, label=name)
                low, high = ([m + sign * e for m, e in zip(middle, error, strict=True)] for sign in (-1, 1))
                axis.fill_between(x, low, high, color=drawn.get_color(), alpha=0.2, linewidth=0)
    for i, title in enumerate(("kNN", "linear")):
        axes[i][0].set_ylabel(f"{title} accuracy, %")
    axes[0][0].set_title(data)
    axes[1][0].set_xlabel("thousand pictures seen")
    axes[1][1].set_xlabel("minutes of training on one processor core")
    axes[0][1].legend(frameon=False, fontsize=8)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    page()

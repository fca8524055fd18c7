"""The page of a run: what it holds, that it is offline and harmless, and that broken folders still give one."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from tutelage.errors import SettingsError
from tutelage.report import write_report
from tutelage.report.charts import charts
from tutelage.report.collect import collect
from tutelage.report.page import number

PAYLOADS = (
    "<img src=x onerror=alert(1)>.jpg",
    "</script><script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "</style><style>*{display:none}</style>",
    "{{ 7 * 7 }}{% include 'x' %}",
    "'-alert(1)-'",
    "javascript:alert(1)",
    "\u202egpj.exe",
    "a\x00b\x1b[31m",
    "\udcff.png",
    "&lt;b&gt;",
    "$\\frac{1}{",
)


class Page(HTMLParser):
    """Every tag with its attributes, and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.style = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "style" and not self.style:
            self.style = data
        self.text.append(data)


def write_run(folder: Path, word: str = "plain", steps: int = 200) -> Path:
    """A small finished run with `word` wherever a name from outside may stand."""

    def lines(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    (folder / "pictures").mkdir(parents=True)
    Image.new("RGB", (40, 30), "white").save(folder / "pictures" / "reconstruction.png")
    for name, values in {
        "settings": {"recipe": word, "data": word, "epochs": 4.0, "method": {"name": "mae", word: word}},
        "environment": {"torch": "2.6", "command": ["tutelage", "pretrain", word], word: word},
        "data": {
            "name": word,
            "train": 1500,
            "found": [f"left out: {word}"],
            "unreadable": [[word, word]],
            "notes": [word],
        },
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")
    lines(
        "metrics.jsonl",
        [
            {"step": s, "epoch": s / 50, "loss": 1 / s, "reconstruction": 1 / s, "lr": 1e-3, "images_per_second": 120.5}
            for s in range(10, steps + 1, 10)
        ],
    )
    lines(
        "monitors.jsonl",
        [
            {
                "step": s,
                "epoch": s / 50,
                "knn_accuracy": 0.8125,
                "rank_me": 9.0,
                "feature_std": 0.4,
                f"{word}_teacher_distance": 0.1,
            }
            for s in range(20, steps + 1, 20)
        ],
    )
    lines("events.jsonl", [{"event": "started"}, {"event": word}, {"event": "finished"}])
    scores = {"cls": {"held_out": 0.5, "test": 0.51}, "mean": {"held_out": 0.625, "test": 0.6375}}
    rows = [
        {"name": name, "token": "mean", "accuracy": 0.6375, "scores": scores} for name in ("untrained", word, "encoder")
    ]
    lines("evaluations.jsonl", [{"protocol": "knn/1", "data": word, "teacher": None, "rows": rows}])
    return folder


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_holds_verdict_numbers_charts_tables_and_pictures(tmp_path: Path) -> None:
    page = read(write_report(write_run(tmp_path / "run")))
    text = " ".join(" ".join(page.text).split())
    for word in ("Healthy", "81.2%", "1,500", "knn/1", "62.5%", "63.7%", "untrained", "method.name", "left out: plain"):
        assert word in text, word
    images = [attributes["src"] or "" for tag, attributes in page.tags if tag == "img"]
    kinds = [src.split(";")[0] for src in images]
    assert kinds.count("data:image/png") == 1
    assert kinds.count("data:image/svg+xml") >= 4
    for src in images:
        assert base64.b64decode(src.split(",", 1)[1])[:5] in (b"\x89PNG\r", b"<?xml")


def test_the_page_asks_for_nothing_from_outside_and_runs_nothing(tmp_path: Path) -> None:
    path = write_report(write_run(tmp_path / "run"))
    page = read(path)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes
    assert not re.search(r"url\(|@import", page.style)


def links(page: Page) -> list[str | None]:
    return [attributes.get("href") for tag, attributes in page.tags if tag == "a"]


@pytest.mark.parametrize("word", ["mae-quickstart", PAYLOADS[1]])
def test_pages_of_two_runs_link_each_other_and_nothing_else(word: str, tmp_path: Path) -> None:
    second = write_run(tmp_path / "run", steps=10)
    first = write_run(second / "first", steps=10)
    told = json.loads((second / "settings.json").read_text())
    assert links(read(write_report(second))) == links(read(write_report(first))) == [], "nothing says that they are two"
    (second / "settings.json").write_text(json.dumps({**told, "first": word}))
    pages = {folder: read(write_report(folder)) for folder in (second, first)}
    assert links(pages[second]) == ["first/report.html"] and links(pages[first]) == ["../report.html"]
    assert word in "".join(pages[second].text) and "run/first: " in "".join(pages[first].text)
    assert [tag for tag, _ in pages[second].tags].count("script") == 0


def test_charts_of_a_run_on_tags_speak_of_tags(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    rows = [{"step": s, "cross_entropy": 2.0, "classifier_accuracy": 0.5} for s in (1, 2)]
    for name in ("metrics", "monitors"):
        (run / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    labels, tags = ({}, {"name": "weakly_supervised"})
    for method, told, untold in ((labels, "labels", "tag"), (tags, "tag", "label")):
        (run / "settings.json").write_text(json.dumps({"method": method}))
        notes = {chart.title: chart.note for chart in charts(collect(run))}
        assert told in notes["Cross-entropy"] and untold not in notes["Cross-entropy"]
        assert ("guesses" in notes["Classifier"]) == (method is labels)


def test_the_policy_allows_this_style_and_no_other(tmp_path: Path) -> None:
    page = read(write_report(write_run(tmp_path / "run")))
    policy = next(a["content"] or "" for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "img-src data:;" in policy and "unsafe" not in policy and "script-src" not in policy


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_names_are_text(tmp_path: Path, payload: str) -> None:
    harmless = read(write_report(write_run(tmp_path / "harmless", steps=10)))  # too short for charts
    path = write_report(write_run(tmp_path / "hostile", payload, steps=10))
    page = read(path)
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in harmless.tags]
    assert page.style == harmless.style
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in payload)
    assert sum(shown in text for text in page.text) >= 8
    assert all(c.isprintable() or c == "\n" for c in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("payload", PAYLOADS)
def test_hostile_names_in_a_chart_are_drawn_as_shapes(tmp_path: Path, payload: str) -> None:
    run = write_run(tmp_path / "run", payload, steps=40)
    (run / "metrics.jsonl").unlink()
    rows = [json.loads(line) for line in (run / "monitors.jsonl").read_text(encoding="utf-8").splitlines()]
    names = ("step", f"{payload}_teacher_distance")
    (run / "monitors.jsonl").write_text("".join(json.dumps({n: row[n] for n in names}) + "\n" for row in rows))
    (chart,) = charts(collect(run))
    tags = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(chart.svg).iter()}
    assert "path" in tags
    assert not {"text", "script", "a", "image", "foreignObject"} & tags


def test_a_hostile_folder_name_is_text(tmp_path: Path) -> None:
    page = read(write_report(write_run(tmp_path / "<b onclick=x>", steps=10)))
    assert "b" not in {tag for tag, _ in page.tags}
    assert "<b onclick=x>" in page.text


@pytest.mark.parametrize(
    "missing",
    [
        "settings.json",
        "environment.json",
        "data.json",
        "metrics.jsonl",
        "monitors.jsonl",
        "events.jsonl",
        "evaluations.jsonl",
    ],
)
def test_any_file_may_be_missing_empty_damaged_or_cut_short(tmp_path: Path, missing: str) -> None:
    run = write_run(tmp_path / "run", steps=10)
    whole = (run / missing).read_text(encoding="utf-8")
    for content in ("", "[]", "nonsense", "[" * 100_000, whole[: len(whole) // 2], "\x00\xff"):
        (run / missing).write_text(content, encoding="utf-8")
        assert write_report(run).stat().st_size > 1000
    (run / missing).unlink()
    assert write_report(run).stat().st_size > 1000


def test_a_line_cut_short_by_a_kill_costs_that_line_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 210, "epoch": 4.2, "lo')
    assert "200" in read(write_report(run)).text


def test_a_step_that_a_resumed_run_wrote_again_counts_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 150, "epoch": 3.0, "loss": 77.0}\n')
    page = read(write_report(run))
    assert "77" not in page.text
    assert "0.005" in page.text  # the loss of step 200, which is still the last


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(SettingsError, match="R-10.*no run folder"):
            write_report(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_no_picture_and_what_points_elsewhere_stays_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=10)
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    (run / "pictures" / "fake.png").write_text("<svg onload=alert(1)>")
    (run / "pictures" / "link.png").symlink_to(secret)
    page = read(write_report(run))
    assert sum("image/png" in (a.get("src") or "") for t, a in page.tags if t == "img") == 1


def test_the_page_is_written_whole_and_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert [path.name for path in run.iterdir() if path.name.startswith(".")] == []


def test_a_long_run_gives_a_small_page_with_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", steps=30_000)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [row | {"skipped": i % 2} for i, row in enumerate(rows)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole, page = collect(run), read(write_report(run))
    monkeypatch.setattr("tutelage.report.collect.MAX_ROWS", 100)
    thin = collect(run)
    assert 50 <= len(thin.metrics) <= 101 and len(whole.metrics) == 3000
    assert thin.metrics[-1]["step"] == 30_000
    assert sum(row["skipped"] for row in thin.metrics) == sum(row["skipped"] for row in whole.metrics) == 1500
    steps = [row["step"] for row in thin.metrics]
    gaps = {after - before for before, after in pairwise(steps[:-1])}
    assert len(gaps) == 1, "evenly thinned"
    path = write_report(run)
    assert path.stat().st_size < 1_000_000
    assert [tag for tag, _ in read(path).tags] == [tag for tag, _ in page.tags]
    assert "1500 of 30000 steps were left out" in " ".join(read(path).text)


def test_numbers_are_written_for_people() -> None:
    assert [number(v) for v in (1500, 0.12345, None, float("nan"), "x", float("inf"))] == ["1,500", "0.1235", *"–" * 4]
    assert number(0.815, percent=True) == "81.5%"

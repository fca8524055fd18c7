"""Rows beside the default row and beside the paper, on numbers that can be worked out by hand."""

import json

import pytest

from tutelage.ablations import Base, Row, Table
from tutelage.comparison import PROTOCOLS, Result, Spread, compared, markdown, plain

TABLE = Table(
    "which losses",
    "a paper, Table 1",
    "top-1",
    {"mini": Base("mae-quickstart"), "full": Base("mae-vitb16")},
    (
        Row("default", paper=70.0),
        Row("worse here too", paper=60.0),
        Row("better here", paper=60.0),
        Row("as good here", paper=60.0),
        Row("said in words", claim="worse"),
        Row("nothing said"),
        Row("another system", paper=50.0, quoted=True),
    ),
)


def result(linear: float, speed: float = 100.0, memory: float = 1e9) -> Result:
    return Result({"linear-cached/1": linear, "knn/1": linear - 10, "low-shot/1": linear - 20}, speed, memory)


RESULTS = {
    "default": {0: result(80), 1: result(82), 2: result(84)},
    "worse here too": {0: result(77, 50), 1: result(79, 50), 2: result(81, 50)},
    "better here": {0: result(81.0), 1: result(83.1), 2: result(85.0)},
    "as good here": {0: result(79), 1: result(83), 2: result(84)},
    "said in words": {0: result(70, memory=2e9)},
    "nothing said": {5: result(75)},
}


def lines() -> dict[str, dict]:
    return {line["row"]: line for line in compared(TABLE, RESULTS)}


def test_a_spread_is_a_mean_and_half_a_students_interval() -> None:
    """Three values with a standard deviation of 2: 4.3027 x 2 / sqrt(3) = 4.968."""
    assert Spread.of([80, 82, 84]) == (82, pytest.approx(4.9683, abs=1e-4))
    assert Spread.of([80]) == (80, None)


@pytest.mark.parametrize(
    ("row", "direction"),
    [
        ("worse here too", "same"),
        ("better here", "opposite"),
        ("as good here", "within noise"),
        ("said in words", "one seed"),
    ],
)
def test_a_direction_is_the_papers_or_not_or_within_the_noise(row: str, direction: str) -> None:
    assert lines()[row]["directions"] == dict.fromkeys(PROTOCOLS["encoder"], direction)


def test_each_protocol_has_its_own_difference_and_direction() -> None:
    """As good in linear accuracy, 4, 5 and 6 points worse in kNN: 5 ± 4.3027 x 1 / sqrt(3) = 2.484."""
    worse = {
        s: Result({**run.scores, "knn/1": run.scores["knn/1"] - 4 - s}, 1, 1) for s, run in RESULTS["default"].items()
    }
    line = compared(TABLE, {**RESULTS, "as good here": worse})[3]
    assert line["differences"]["knn/1"] == (pytest.approx(-5), pytest.approx(2.4841, abs=1e-4))
    assert line["directions"] == {"linear-cached/1": "within noise", "knn/1": "same", "low-shot/1": "within noise"}


def test_differences_are_of_runs_with_the_same_seed() -> None:
    """What seeds differ by cancels: -3 each, though seeds are 2 apart."""
    assert lines()["worse here too"]["differences"]["linear-cached/1"] == (
        pytest.approx(-3),
        pytest.approx(0, abs=1e-9),
    )
    assert "differences" not in lines()["nothing said"] and "differences" not in lines()["default"]


def test_step_time_and_memory_are_multiples_of_the_default_rows() -> None:
    found = lines()
    assert found["worse here too"]["step_time"] == 2
    assert found["said in words"]["memory"] == 2


def test_a_quoted_row_has_the_papers_number_and_no_run() -> None:
    line = lines()["another system"]
    assert (line["paper"], line["quoted"], line["scores"], line["seeds"]) == (50.0, True, {}, 0)


def test_the_table_reads_as_markdown_and_its_values_as_json() -> None:
    text = markdown(TABLE, compared(TABLE, RESULTS), "a/table-1: which losses (mini, digits, 100 pictures seen)")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {12}
    same = "-3.0 ± 0.0 same"
    assert (
        f"| worse here too | 60 | 79.0 ± 5.0 | {same} | 69.0 ± 5.0 | {same} | 59.0 ± 5.0 | {same} | 2.00 | 1.00 | 3 |"
        in rows
    )
    one = "-10.0 one seed"
    assert f"| said in words |  | 70.0 | {one} | 60.0 | {one} | 50.0 | {one} | 1.00 | 2.00 | 1 |" in rows
    assert "| another system | 50 (quoted) |  |  |  |  |  |  |  |  |  |" in rows
    values = json.loads(json.dumps(plain(compared(TABLE, RESULTS)), allow_nan=False))
    assert values[4]["differences"]["knn/1"] == {"mean": -10.0, "half": None}

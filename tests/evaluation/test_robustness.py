"""Errors on corrupted pictures against accuracies of other protocols, and mean corruption errors against NumPy."""

import json

import numpy as np
import pytest
from PIL import Image
from tests.evaluation.small import COLOUR, GREY, NAME, small_vit, write_run

from small_runs import TINY
from tutelage import api
from tutelage.api import evaluate
from tutelage.data.corruptions import KINDS, Corruption, corrupt
from tutelage.data.index import open_data
from tutelage.data.order import Draws, mix
from tutelage.errors import CheckpointError, DataError, SettingsError
from tutelage.evaluation.corruption_error import Robustness, corruption_error, relative_corruption_error
from tutelage.evaluation.result import Row, Score
from tutelage.evaluation.robustness import RobustnessSettings
from tutelage.export import write_timm

TWO = RobustnessSettings(kinds=("snow", "jpeg"), severities=(5, 1, 5), test_pictures=60)
WHOLE = RobustnessSettings(kinds=("snow",), severities=(5, 1, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    write_timm(small_vit(size=8, patch=2), path, GREY, architecture=NAME)
    return str(path)


def asked(folder, data="digits", **options):
    return evaluate("robustness", folder, data, **{"robustness": TWO, "epochs": 5, **options})


def found_by(errors, baseline, clean=0.1, baseline_clean=0.2):
    """A result with these errors, by kind."""
    rows = tuple(
        Row(name, {"cls": Score(0.5, 1 - float(np.mean(list(those.values()))), {"clean_error": c, "errors": those})})
        for name, those, c in (("untrained", baseline, baseline_clean), ("encoder", errors, clean))
    )
    settings = RobustnessSettings(kinds=tuple(errors)).model_dump(mode="json")
    who = {"encoder": "x", "origin": "x", "teacher": None, "architecture": NAME}
    what = {"data": "d", "fingerprint": "", "pictures": {"test": 100}, "num_classes": 10}
    return Robustness(
        protocol="robustness/1", settings=settings, rows=rows, notes=(), seconds=1.0, **who, **what
    )  # fmt: skip


def test_mean_corruption_errors_are_those_of_section_4():
    rng = np.random.default_rng(0)
    e, b = rng.uniform(0.3, 0.6, (15, 5)), rng.uniform(0.5, 0.9, (15, 5))
    found = found_by(*({k: row.tolist() for k, row in zip(KINDS, x, strict=True)} for x in (e, b)))
    ce = e.sum(axis=1) / b.sum(axis=1)
    relative = (e - 0.1).sum(axis=1) / (b - 0.2).sum(axis=1)
    told = json.loads(json.dumps(found.to_json()))
    assert told["mean_corruption_error"] == pytest.approx(100 * ce.mean())
    assert told["relative_mean_corruption_error"] == pytest.approx(100 * relative.mean())
    assert told["corruptions"]["fog"]["corruption_error"] == pytest.approx(100 * ce[KINDS.index("fog")])
    assert told["corruptions"]["fog"]["error"] == pytest.approx(e[KINDS.index("fog")].mean())
    assert (told["clean_error"], told["baseline"]) == (0.1, "untrained")
    assert told["accuracy"] == pytest.approx(1 - e.mean())
    (line,) = [line for line in found.table() if line.startswith("  fog")]
    k = KINDS.index("fog")
    numbers = [*(100 * e[k]), 100 * e[k].mean(), 100 * b[k].mean(), 100 * ce[k], 100 * relative[k]]
    assert line.split()[1:] == [f"{number:.1f}" for number in numbers]
    mean = next(line for line in found.table() if line.startswith("  mean")).split()[1:]
    expected = [100 * e.mean(), 100 * b.mean(), 100 * ce.mean(), 100 * relative.mean()]
    assert mean == [f"{number:.1f}" for number in expected]


def test_a_kind_that_costs_the_baseline_nothing_is_left_out_of_the_mean():
    assert corruption_error([0.1, 0.2], [0.0, 0.0]) is None
    assert relative_corruption_error([0.1, 0.2], 0.1, [0.2, 0.1], 0.2) is None
    found = found_by({"fog": [0.3, 0.5], "snow": [0.2, 0.2]}, {"fog": [0.4, 0.4], "snow": [0.2, 0.1]})
    assert found.mean("relative_corruption_error") == pytest.approx(100 * 0.6 / 0.4)
    assert found.mean("corruption_error") == pytest.approx(50 * (0.8 / 0.8 + 0.4 / 0.3))
    assert "none" not in found.table()[-1]
    nowhere = found_by({"snow": [0.2, 0.2]}, {"snow": [0.2, 0.1]})
    assert nowhere.mean("relative_corruption_error") is None and "relative none" in nowhere.table()[-1]


def test_an_encoder_makes_exactly_all_the_errors_of_itself(folder):
    found = asked(folder, baseline=folder)
    assert found.mean("corruption_error") == 100.0 and found.mean("relative_corruption_error") == 100.0
    assert [row.name for row in found.rows] == [folder, "encoder"]


def test_the_clean_error_is_that_of_linear_and_the_corrupted_ones_grow(folder):
    found, linear = asked(folder, robustness=WHOLE), evaluate("linear", folder, "digits", epochs=5)
    assert found.protocol == "robustness/1" and found.pictures["test"] == linear.pictures["test"]
    assert found.rows[-1].token == linear.rows[-1].token
    assert found.clean_errors == pytest.approx([1 - linear.rows[-1].accuracy, 1 - linear.rows[1].accuracy])
    assert [row.name for row in found.rows] == ["untrained", "encoder"]
    snow = found.corruptions()["snow"]["errors"]
    assert len(snow) == 2 and found.clean_errors[0] < snow[0] < snow[1] < 1  # severities 1 and 5, each once
    assert found.settings["severities"] == [1, 5]


def written(root, change=lambda picture, name: picture):
    """Some digits as files, those to test on changed; the place of the set. A validation part alone is for testing."""
    digits = open_data("digits")
    for part, pictures in (("train", digits.train), ("val", digits.test)):
        for i in range(min(len(pictures), 150)):
            picture, name = pictures.read(i), f"{int(pictures.ids[i]):05d}.png"
            place = root / part / pictures.classes[pictures.labels[i]]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((change(picture, name) if part == "val" else picture)[0].numpy()).save(place / name)
    return str(root)


def test_errors_are_those_on_corrupted_pictures_written_to_files(folder, tmp_path):
    """The same classifier, asked by `evaluate linear` about a test part that was corrupted beforehand."""
    clean = written(tmp_path / "clean")
    test = open_data(clean).test
    number = {test.name(i).rsplit("/")[-1]: int(test.ids[i]) for i in range(len(test))}

    def snowy(picture, name):
        return corrupt(picture, Corruption("snow", 5), Draws(mix("corruption", "snow", number[name])))

    assert min(number.values()) == 150
    found = asked(folder, clean, baselines=False, robustness=WHOLE)
    linear = evaluate("linear", folder, written(tmp_path / "snowy", snowy), epochs=5, baselines=False)
    assert found.pictures == linear.pictures and found.pictures["test"] == 150
    assert found.corruptions()["snow"]["errors"][1] == pytest.approx(1 - linear.accuracy)
    assert found.clean_errors[0] < 1 - linear.accuracy


def test_without_a_baseline_there_are_errors_alone(folder):
    found = asked(
        folder, baselines=False, robustness=RobustnessSettings(kinds=("fog",), severities=(3,), test_pictures=9)
    )
    told = json.loads(json.dumps(found.to_json()))
    assert told["mean_corruption_error"] is None and told["baseline"] is None
    assert len(found.rows) == 1 and set(told["corruptions"]["fog"]) == {"errors", "error"}
    table = "\n".join(found.table())
    assert "baseline" not in table and table.splitlines()[-1].startswith("error ")


def test_fewer_pictures_are_evenly_spread_and_workers_change_nothing(folder):
    few = TWO.model_copy(update={"test_pictures": 40})
    found = asked(folder, robustness=few, baselines=False, train_pictures=200)
    assert found.pictures == {"train": 200, "held_out": 50, "test": 40}
    again = asked(folder, robustness=few, baselines=False, train_pictures=200, workers=2)
    assert again.rows == found.rows
    one = few.model_copy(update={"kinds": ("jpeg",), "severities": (5,)})
    alone = asked(folder, robustness=one, baselines=False, train_pictures=200)
    assert alone.corruptions()["jpeg"]["errors"] == found.corruptions()["jpeg"]["errors"][1:]


def test_encoders_of_other_sizes_and_channels_are_compared(folder, tmp_path):
    write_timm(small_vit(size=16, patch=4, channels=3), tmp_path / "c", COLOUR, architecture=NAME)
    found = asked(folder, baseline=str(tmp_path / "c"), train_pictures=200)
    alone = asked(str(tmp_path / "c"), baselines=False, train_pictures=200)
    assert found.rows[0].scores == alone.rows[0].scores


def test_a_runs_result_is_kept_and_stands_in_its_report(tmp_path):
    from tutelage.report.collect import read_lines
    from tutelage.report.page import evaluation_rows

    vit = small_vit(size=8, patch=2)
    write_run(tmp_path / "run", vit, vit)
    found = asked(str(tmp_path / "run"), teacher="reconstruction_teacher")
    (kept,) = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert kept["mean_corruption_error"] == found.mean("corruption_error")
    assert kept["teacher"] == "reconstruction_teacher"
    rows = evaluation_rows([kept])
    assert [row["protocol"] for row in rows] == ["robustness/1"] * 2 and rows[-1]["own"]
    assert rows[-1]["test"] == found.accuracy


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {key: value for key, value in TINY.items() if key not in ("method", "data", "epochs")}
    out = tmp_path_factory.mktemp("classifier") / "run"
    return api.pretrain("fixmatch-quickstart", "digits", out, steps=20, labels="100", **small)


def test_the_classifier_of_a_run_is_asked_instead_if_that_is_wished(run, folder):
    found = asked(str(run), classifier=True, robustness=WHOLE)
    plain = evaluate("classifier", run, "digits")
    assert found.clean_errors[0] == pytest.approx(1 - plain.accuracy)
    assert found.rows[-1].name == "classifier"
    assert found.rows[-1].scores["head"].held_out is None, "it may have learned from pictures that are held out here"
    assert [list(row.scores) for row in found.rows] in ([["cls"], ["head"]], [["mean"], ["head"]])
    assert asked(str(run), classifier=True, baseline=str(run)).mean("corruption_error") == 100.0
    with pytest.raises(CheckpointError, match="K-07"):
        asked(folder, classifier=True)


def striped(root, labels, count=12):
    for k, label in enumerate(labels):
        (root / label).mkdir()
        for i in range(count):
            Image.fromarray(np.full((16, 16), 20 * i + k, np.uint8)).save(root / label / f"{i}.png")
    return str(root)


def test_bad_input_is_refused(run, folder, tmp_path):
    with pytest.raises(DataError, match="D-26: .* which are not the 3 of .*: 3 are none of them, as cat, dog, hen"):
        asked(str(run), striped(tmp_path, ("cat", "dog", "hen")), classifier=True)
    with pytest.raises(CheckpointError, match="K-02"):
        asked(folder, baseline="nowhere")
    with pytest.raises(SettingsError, match="C-40: low_shot belongs to other protocols, not to robustness") as refused:
        asked(folder, low_shot={"draws": 3})
    assert refused.value.exit_code == 2
    with pytest.raises(SettingsError, match="C-40: teacher belongs to encoders, not to the classifier"):
        asked(folder, classifier=True, teacher="student")
    with pytest.raises(SettingsError, match="C-40: --baseline names one, and --no-baselines wants none"):
        asked(folder, baseline=folder, baselines=False)
    with pytest.raises(
        SettingsError, match="C-40: baseline, robustness belong to robustness or classifier, not to knn"
    ):
        evaluate("knn", folder, "digits", baseline=folder, robustness=TWO)
    for wrong in (
        {"kinds": ("rain",)},
        {"kinds": ()},
        {"severities": (0,)},
        {"severities": (6,)},
        {"test_pictures": 0},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RobustnessSettings(**wrong)

import contextlib
import json
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from tests.evaluation.small import GREY, NAME, small_vit, write_run
from timm.layers import PatchEmbed
from torch import nn

from tutelage.api import evaluate, evaluate_all
from tutelage.data.order import Draws
from tutelage.errors import CheckpointError, DataError, SettingsError
from tutelage.evaluation import protocol
from tutelage.evaluation.knn import KNNSettings, score_knn
from tutelage.evaluation.linear import CachedSettings, score_cached
from tutelage.evaluation.low_shot import LowShotSettings, score_low_shot
from tutelage.evaluation.parts import Labelled, Split
from tutelage.evaluation.protocol import VERSION
from tutelage.evaluation.result import Row, Score
from tutelage.export import write_timm


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder") / "encoder"
    write_timm(small_vit(size=8, patch=2), path, GREY, architecture=NAME)
    return str(path)


def striped(root, labels, per_class=20, part=""):
    """Class k is bright in row k, with noise."""
    rng = np.random.default_rng(0)
    for k, label in enumerate(labels):
        (root / part / label).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 60, (8, 8)).astype(np.uint8)
            pixels[k] = 220
            Image.fromarray(pixels).save(root / part / label / f"{part}{i:02d}.png")
    return root


def test_digits_are_told_apart_end_to_end_beside_both_baselines(folder):
    found = evaluate("knn", folder, "digits")
    assert found.protocol == "knn/1"
    assert [row.name for row in found.rows] == ["raw pixels", "untrained", "encoder"]
    assert found.rows[0].accuracy > 0.95
    assert 0.15 < found.accuracy < 1
    assert sum(found.pictures.values()) == 1797
    assert any("labelled pictures" in note and "testing" in note for note in found.notes)
    values = json.loads(json.dumps(found.to_json()))
    assert values["accuracy"] == found.accuracy == values["rows"][-1]["accuracy"]
    assert set(values["rows"][2]["scores"]) == {"cls", "mean"}
    assert set(values["rows"][2]["scores"]["cls"]["details"]["test_by_k"]) == {"10", "20", "100", "200"}
    table = "\n".join(found.table())
    assert f"accuracy {100 * found.accuracy:.2f} %" in table
    assert "raw pixels" in table


def test_whose_features_and_of_which_pictures_is_told(folder):
    said = []
    protocol.evaluate_all([KNNSettings()], folder, "digits", batch_size=10, say=said.append)
    told = [line.partition(" · ")[2] for line in said]
    whose = [f"{name} · {part}" for name in ("untrained", "encoder") for part in ("training", "held out", "test")]
    assert list(dict.fromkeys(told)) == whose
    assert all(line.startswith("features  ") and " pictures · " in line for line in said)


def test_linear_finds_more_in_digits_than_chance_and_says_how(folder):
    found = evaluate("linear", folder, "digits", epochs=10, baselines=False)
    assert found.protocol == "linear-cached/1"
    assert found.settings["epochs"] == 10
    assert [row.name for row in found.rows] == ["encoder"]
    assert found.accuracy > 0.6
    assert found.rows[0].scores["cls"].details["learning_rate"] in found.settings["learning_rates"]


def test_maes_protocol_runs_end_to_end(folder, tmp_path):
    found = evaluate("linear", folder, str(striped(tmp_path, "abc")), linear_protocol="mae", epochs=3)
    assert found.protocol == "linear-mae/1"
    assert any("made for ImageNet" in note for note in found.notes)
    assert [list(row.scores) for row in found.rows] == [["pixels"], ["cls", "mean"], ["cls", "mean"]]


def test_low_shot_tells_mean_and_deviation_for_each_number_of_labels(folder):
    found = evaluate("low-shot", folder, "digits", low_shot=LowShotSettings(shots=(1, 10), draws=3))
    assert found.protocol == "low-shot/1"
    assert [row.name for row in found.rows] == ["raw pixels", "untrained", "encoder"]
    pixels = json.loads(json.dumps(found.to_json()))["rows"][0]["scores"]["pixels"]
    by_k = pixels["details"]
    assert 0.4 < by_k["test_by_k"]["1"] < by_k["test_by_k"]["10"] == pixels["test"] < 0.98
    assert 0 < by_k["std_by_k"]["10"] < by_k["std_by_k"]["1"] < 0.2
    assert set(by_k["c_by_k"]) == {"1", "10"} and set(by_k["c_by_k"].values()) <= set(found.settings["c"])
    assert any(f"chosen on {found.pictures['held_out']} held-out pictures" in note for note in found.notes)
    assert any("raw pixels" in line and "k=1 " in line and "±" in line for line in found.table())


def test_a_class_with_too_few_pictures_for_low_shot_is_refused_before_anything_is_computed(folder, tmp_path):
    data = str(striped(tmp_path, "abc", per_class=8))
    seen = []
    with watched(lambda pictures: seen.append(len(pictures))), pytest.raises(DataError, match="D-16"):
        evaluate_all(("knn", "low-shot"), folder, data)
    assert not seen
    assert evaluate("low-shot", folder, data, low_shot=LowShotSettings(shots=(1, 4)), baselines=False).accuracy > 0.3


@contextlib.contextmanager
def watched(see):
    """Calls `see` with every batch of pictures that any encoder embeds."""
    hook = nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: see(inputs[0]) if isinstance(module, PatchEmbed) else None
    )
    try:
        yield
    finally:
        hook.remove()


def test_several_protocols_share_one_pass_and_find_what_each_finds_alone(folder, tmp_path):
    data = str(striped(tmp_path, "abc"))
    names, options = ("knn", "linear", "low-shot"), {"epochs": 3, "low_shot": LowShotSettings(shots=(1, 3), draws=2)}
    own = {"knn": [], "linear": ["epochs"], "low-shot": ["low_shot"]}
    alone = [evaluate(name, folder, data, **{key: options[key] for key in own[name]}) for name in names]
    seen = []
    with watched(lambda pictures: seen.append(len(pictures))):
        together = evaluate_all(names, folder, data, **options)
    assert sum(seen) == 2 * 60  # the untrained encoder and the encoder
    for one, other in zip(together, alone, strict=True):
        assert (one.protocol, one.rows, one.notes) == (other.protocol, other.rows, other.notes)


def test_maes_protocol_computes_no_features_of_training_pictures(folder, tmp_path):
    data, seen = str(striped(tmp_path, "abc")), []
    with watched(lambda pictures: seen.append(len(pictures))):
        found = evaluate("linear", folder, data, linear_protocol="mae", epochs=3, baselines=False)
    parts = found.pictures
    assert sum(seen) == 3 * parts["train"] + parts["held_out"] + parts["test"]


def test_workers_prepare_pictures_and_change_nothing(folder, tmp_path):
    data, threads = str(striped(tmp_path, "abc")), set()
    plain = evaluate("knn", folder, data)
    with watched(lambda pictures: threads.update(thread.name[:8] for thread in threading.enumerate())):
        assert evaluate("knn", folder, data, workers=2).rows == plain.rows
    assert "pictures" in threads


def test_what_is_held_out_of_training_is_said_to_teach_nothing(folder, tmp_path):
    def told(data, **options):
        notes = evaluate("knn", folder, str(data), baselines=False, **options).notes
        return [note for note in notes if "papers teach with all" in note]

    striped(tmp_path / "set", "abc", part="train")
    striped(tmp_path / "set", "abc", per_class=6, part="test")
    (note,) = told(tmp_path / "set")
    assert note.startswith("54 of 60 training pictures teach, the others choose the token")
    assert told(tmp_path / "set", train_pictures=30) == []
    striped(tmp_path / "set", "abc", per_class=6, part="val")
    assert told(tmp_path / "set") == []


@pytest.mark.parametrize("protocol", ["knn", "linear", "low-shot"])
def test_nothing_is_chosen_on_test_pictures(folder, tmp_path, protocol):
    """With the classes of the test part swapped everything chosen stays, and the accuracy is that of the choice."""
    striped(tmp_path / "true", "abc", part="train")
    striped(tmp_path / "true", "abc", per_class=6, part="test")
    striped(tmp_path / "swapped", "abc", part="train")
    striped(tmp_path / "swapped", "bca", per_class=6, part="test")
    few = {"low_shot": LowShotSettings(shots=(1, 5), draws=2)} if protocol == "low-shot" else {}
    true, swapped = (evaluate(protocol, folder, str(tmp_path / name), **few) for name in ("true", "swapped"))
    assert true.rows[0].accuracy > 0.9
    assert swapped.rows[0].accuracy < 0.1
    for one, other in zip(true.rows, swapped.rows, strict=True):
        assert one.token == other.token
        for token, score in one.scores.items():
            assert score.held_out == other.scores[token].held_out
            for chosen in ("learning_rate", "c_by_k"):
                assert score.details.get(chosen) == other.scores[token].details.get(chosen)


def test_the_headline_is_the_token_that_is_better_on_held_out_pictures():
    row = Row("x", {"cls": Score(0.5, 0.9, {}), "mean": Score(0.6, 0.4, {})})
    assert (row.token, row.accuracy) == ("mean", 0.4)
    assert Row("x", {"cls": Score(0.5, 0.1, {}), "mean": Score(0.5, 0.9, {})}).token == "cls"


def test_evaluating_twice_gives_the_same_numbers(folder, tmp_path):
    data = str(striped(tmp_path, "abc"))
    first, second = (evaluate("linear", folder, data, epochs=2) for _ in range(2))
    assert first.rows == second.rows


OLD_TORCH = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
"""It draws first weights in another way: numbers of torch 2.6."""
PINNED = {
    "knn": (0.6125, 0.5583, {"k": 20, "test_by_k": {"10": 0.525, "20": 0.5583, "100": 0.575, "200": 0.5833}}),
    "linear": (*((0.6, 0.6) if OLD_TORCH else (0.6125, 0.5833)), {"learning_rate": 0.01}),
    "low-shot": (
        0.5325,
        0.5,
        {
            "k": 10,
            "test_by_k": {"1": 0.3417, "10": 0.5},
            "std_by_k": {"1": 0.0328, "10": 0.051},
            "c_by_k": {"1": 10.0, "10": 0.001},
        },
    ),
}


def uniform(seed, count, width=16, classes=4):
    """Uniform numbers from integer arithmetic; the column of a picture's class is raised by 0.4."""
    x = torch.from_numpy(Draws(seed).uniforms(count * width).reshape(count, width))
    y = torch.arange(count) % classes
    x[torch.arange(count), y] += 0.4
    return Labelled(x, y)


@pytest.mark.parametrize("protocol", PINNED)
def test_the_numbers_of_version_1_stay(protocol):
    """Raise VERSION when these change. They were recorded with the code of the first commit that had the protocol."""
    parts = Split(uniform(1, 200), uniform(2, 80), uniform(3, 120))
    score = {
        "knn": lambda: score_knn(parts, 4, KNNSettings()),
        "linear": lambda: score_cached(parts, 4, CachedSettings(epochs=10)),
        "low-shot": lambda: score_low_shot(parts, 4, LowShotSettings(shots=(1, 10))),
    }[protocol]()
    assert VERSION == 1
    held_out, test, details = PINNED[protocol]
    assert (round(score.held_out, 4), round(score.test, 4)) == (held_out, test)
    rounded = {
        key: {k: round(v, 4) for k, v in value.items()} if isinstance(value, dict) else value
        for key, value in score.details.items()
    }
    assert rounded == details


def test_a_runs_result_is_kept_with_the_run(tmp_path):
    vit = small_vit(size=8, patch=2)
    write_run(tmp_path / "run", vit, vit)
    data = str(striped(tmp_path / "data", "abc"))
    found = [
        evaluate("knn", str(tmp_path / "run"), data, baselines=False, teacher=t)
        for t in (None, "reconstruction_teacher")
    ]
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [line["accuracy"] for line in kept] == [one.accuracy for one in found]
    assert [line["teacher"] for line in kept] == [None, "reconstruction_teacher"]
    assert all("time" in line for line in kept)


def test_sets_without_labels_are_refused(folder, tmp_path):
    for i in range(12):
        Image.fromarray(np.full((8, 8), i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match="D-10") as refused:
        evaluate("knn", folder, str(tmp_path))
    assert refused.value.exit_code == 3


def test_a_set_of_one_class_is_refused(folder, tmp_path):
    striped(tmp_path, "a", part="train")
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"train/a/train{i:02d}.png,a\n" for i in range(20)))
    with pytest.raises(DataError, match="D-15"):
        evaluate("knn", folder, str(tmp_path / "list.csv"))


def test_pictures_without_a_label_are_left_out_and_counted(folder, tmp_path):
    striped(tmp_path, "abc")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    rows = [f"{name},{name[0] if k % 3 else ''}\n" for k, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(rows))
    found = evaluate("knn", folder, str(tmp_path / "list.csv"), baselines=False)
    assert sum(found.pictures.values()) == 40
    assert any("20 pictures without a label are not used" in note for note in found.notes)
    assert any("k is at most" in note for note in found.notes)


def test_a_class_without_training_pictures_counts_as_wrong_and_is_named(folder, tmp_path):
    striped(tmp_path, "abz", per_class=22)
    names = [f"{label}/{i:02d}.png" for label, count in (("a", 20), ("b", 22), ("z", 1)) for i in range(count)]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{name},{name[0]}\n" for name in names))
    found = evaluate("knn", folder, str(tmp_path / "list.csv"))
    assert any("no training picture, and count as wrong: z" in note for note in found.notes)
    assert found.rows[0].accuracy <= 8 / 9


def test_options_that_mean_nothing_to_a_protocol_are_refused_before_anything_is_read():
    with pytest.raises(SettingsError, match="C-40: epochs and a linear protocol belong to 'linear', not to knn"):
        evaluate("knn", "nowhere", "nothing", epochs=3)
    with pytest.raises(SettingsError, match="C-40: shots, draws and C belong to 'low-shot', not to knn, linear"):
        evaluate_all(("knn", "linear"), "nowhere", "nothing", low_shot=LowShotSettings(draws=3))
    with pytest.raises(SettingsError, match="C-41: there is no protocol 'low_shot'. Did you mean 'low-shot'?"):
        evaluate_all(("knn", "low_shot"), "nowhere", "nothing")
    with pytest.raises(CheckpointError, match="K-02"):
        evaluate("knn", "nowhere", "nothing")


def test_the_better_encoder_gets_the_better_number(tmp_path):
    """An encoder whose class token is a fixed projection of the pixels beats one whose tokens are constant."""
    constant = small_vit(size=8, patch=2)
    with torch.no_grad():
        constant.patch_embed.proj.weight.zero_()
    write_timm(constant, tmp_path / "constant", GREY, architecture=NAME)
    write_timm(small_vit(size=8, patch=2), tmp_path / "seeing", GREY, architecture=NAME)
    constant_row, seeing_row = (
        evaluate("linear", str(tmp_path / name), "digits", epochs=4, baselines=False) for name in ("constant", "seeing")
    )
    assert constant_row.accuracy < 0.2
    assert seeing_row.accuracy > constant_row.accuracy + 0.3

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from small_runs import tiny
from tutelage import api
from tutelage.data.index import open_data
from tutelage.evaluation.features import Features
from tutelage.evaluation.parts import Parts, Seen, holdout_of, labelled_parts, seen_before
from tutelage.evaluation.result import Evaluation


def some():
    parts, _ = labelled_parts(open_data("digits"))
    return Parts(*(part.subset(np.arange(5 + i)) for i, part in enumerate(parts)))


def test_features_of_a_part_are_computed_when_asked_for_and_once():
    computed, names = [], []

    def compute(part, name):
        computed.append(len(part))
        names.append(name)
        x = torch.full((len(part), 2), float(len(computed)))
        return Features(x, -x, torch.as_tensor(part.labels))

    seen = Seen(some(), compute)
    assert computed == []
    assert seen.test.cls[0, 0] == seen.test.cls[0, 0] == 1
    assert computed == [7]
    found = [seen.split(token, "cpu") for token in ("cls", "mean")]
    assert sorted(computed) == [5, 6, 7]
    assert dict(zip(computed, names, strict=True)) == {5: "training", 6: "held out", 7: "test"}
    assert torch.equal(found[0].test.x, -found[1].test.x)
    assert [len(part.y) for part in found[0]] == [5, 6, 7]


def test_spreading_takes_a_quarter_as_many_held_out_pictures_and_all_test_pictures():
    parts, _ = labelled_parts(open_data("digits"))
    fewer = parts.spread(40)
    assert [len(part) for part in fewer] == [40, 10, len(parts.test)]


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A folder of pictures, a table of their labels, and a run that was pretrained on them without it."""
    root = tmp_path_factory.mktemp("unlabelled")
    photos, table = root / "photos", root / "labels.csv"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(photos / f"{i}.png")
    table.write_text("\n".join(["path,label", *(f"photos/{i}.png,{'ab'[i % 2]}" for i in range(60))]))
    api.run(tiny("mae", data=str(photos), steps=2), root / "run", quiet=True)
    return photos, table, root / "run"


def told(found: Evaluation) -> list[str]:
    return [
        note.partition(" was trained on this set, and kept ")[0] for note in found.notes if "may have learned" in note
    ]


def test_it_is_told_where_a_run_may_have_learned_from_what_it_is_asked_for(unlabelled: tuple[Path, Path, Path]) -> None:
    """Pretrained without labels, on all pictures; judged with labels, of which a fifth is kept for testing."""
    photos, table, run = unlabelled
    for encoder in (run, run / "encoder", run / "checkpoints" / "step-00000002"):
        found = api.evaluate("knn", encoder, photos, labels=str(table), baselines=False)
        assert told(found) == [f"warning: {run}"] and "kept 0 of its pictures for testing" in " ".join(found.notes)


def test_nothing_is_told_of_the_same_division_of_other_pictures_and_of_what_is_no_run(
    unlabelled: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, table, run = unlabelled
    small = tiny("mae", data=str(photos), labels=str(table), steps=2, share=0.5, batch_size=16)
    alike = api.run(small, tmp_path / "run", quiet=True).out
    assert not told(api.evaluate("knn", alike, photos, labels=str(table), baselines=False))
    shutil.copytree(run / "encoder", tmp_path / "elsewhere")
    assert not told(api.evaluate("knn", tmp_path / "elsewhere", photos, labels=str(table), baselines=False))
    assert not told(api.evaluate("knn", run, "digits", train_pictures=100, baselines=False))
    monkeypatch.chdir(run)
    assert not seen_before("timm:vit_tiny_patch16_224", open_data(str(photos), labels=str(table)))


def test_what_a_run_began_from_is_looked_at_too(unlabelled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The classifier kept its test pictures from training; the encoder that it began from did not."""
    photos, table, run = unlabelled
    small = tiny("finetune", data=str(photos), labels=str(table), steps=2, batch_size=16, init=str(run))
    tuned = api.run(small, tmp_path / "run", quiet=True).out
    assert told(api.evaluate("classifier", tuned, photos, labels=str(table))) == [f"warning: {run}"]
    found = api.evaluate("classifier", tuned, photos, labels=str(table), all_pictures=True)
    assert told(found) == [f"warning: {tuned}", f"warning: {run}"]


def test_the_line_of_runs_is_followed_however_it_is_told(unlabelled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """By the first of two runs, by a file of weights, in a circle; what is no place ends it."""
    photos, table, run = unlabelled
    data, own = open_data(str(photos), labels=str(table)), tmp_path / "own"
    shutil.copytree(run, own / "first")
    settings = json.loads((run / "settings.json").read_text())

    def told_of(init: Any) -> list[str]:
        (own / "settings.json").write_text(json.dumps(settings | {"init": init}))
        return [note.partition(" was trained")[0] for note in seen_before(str(own), data)]

    first = f"warning: {own / 'first'}"
    weights = run / "encoder" / "model.safetensors"
    assert told_of(str(weights)) == [f"warning: {run}", first]
    for init in (None, str(own), "timm:vit_tiny_patch16_224", 5, ["x"]):
        assert told_of(init) == [first]
    for init in ("~no-such-user/x", "x" * 5000):
        assert len(told_of(init)) == 2 and "is not known" in told_of(init)[0]


@pytest.mark.parametrize("hashes", [{}, {"pictures": "", "tags": "", "wordnet": ""}, None, 5])
def test_runs_of_earlier_versions_and_damaged_ones_are_judged(unlabelled: tuple[Path, Path, Path], hashes: Any) -> None:
    """Without hashes, or with those of tags alone, nothing can be told; damage is told."""
    photos, table, run = unlabelled
    before = (run / "data.json").read_text()
    (run / "data.json").write_text(json.dumps(json.loads(before) | {"hashes": hashes}))
    notes = seen_before(str(run), open_data(str(photos), labels=str(table)))
    (run / "data.json").write_text(before)
    assert len(notes) == (not isinstance(hashes, dict))
    assert all(note.startswith(f"warning: what {run} learned from is not known: K-10") for note in notes)


def test_a_checkpoint_is_of_its_run(unlabelled: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Its share of held-out pictures is its run's."""
    run = tmp_path / "run"
    shutil.copytree(unlabelled[2], run)
    settings = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps(settings | {"holdout": 0.0}))
    for place in (run, run / "encoder", run / "checkpoints" / "step-00000002"):
        assert holdout_of(str(place)) == 0
    assert holdout_of(str(tmp_path)) == holdout_of("timm:resnet18") == 0.1

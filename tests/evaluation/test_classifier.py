"""The classifier that a run trained: written for timm with its class names, loaded back, and judged on test pictures."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from tests.evaluation.small import COLOUR, GREY, NAME, small_vit
from torch import nn

from small_runs import TINY
from tutelage import api
from tutelage.data.index import open_data
from tutelage.data.streams import eval_batches
from tutelage.encoder import encode, with_head
from tutelage.errors import CheckpointError, DataError
from tutelage.evaluation.classifier import mean_per_class
from tutelage.evaluation.features import normalised
from tutelage.export import load_classifier, load_encoder, write_timm

CLASSES = ("cat", "dog", "hen")


def head(width: int = 48) -> nn.Linear:
    torch.manual_seed(5)
    return nn.Linear(width, len(CLASSES))


@pytest.mark.parametrize("pool", ["token", "avg"])
@pytest.mark.parametrize("positions", ["sincos", "relative"])
def test_a_classifier_comes_back_and_says_what_ours_says(tmp_path, pool, positions):
    vit, linear = small_vit(channels=3, positions=positions), head()
    x = torch.randn(2, 3, 32, 32)
    z = encode(vit, x)
    expected = linear(z.cls[:, 0] if pool == "token" else z.patches.mean(1)).detach()
    classifier = with_head(vit, linear, pool)
    torch.testing.assert_close(classifier(x), expected, rtol=0, atol=1e-5)
    assert write_timm(classifier, tmp_path / "c", COLOUR, architecture=NAME, classes=CLASSES) <= 1e-5
    back = load_classifier(str(tmp_path / "c"))
    assert back.classes == CLASSES
    torch.testing.assert_close(back.vit(x), expected, rtol=0, atol=1e-5)
    assert isinstance(vit.head, nn.Identity)  # the encoder stays as it is
    if positions == "sincos":
        theirs = timm.create_model(f"local-dir:{tmp_path / 'c'}", pretrained=True).eval()
        torch.testing.assert_close(theirs(x), expected, rtol=0, atol=1e-5)
        assert theirs.num_classes == 3 and tuple(theirs.pretrained_cfg["label_names"]) == CLASSES


def test_an_encoder_is_read_from_a_classifiers_folder_without_its_head(tmp_path):
    vit = small_vit(channels=3)
    write_timm(with_head(vit, head(), "token"), tmp_path / "c", COLOUR, architecture=NAME, classes=CLASSES)
    assert isinstance(load_encoder(str(tmp_path / "c")).vit.head, nn.Identity)


def test_what_has_no_classifier_is_refused(tmp_path):
    write_timm(small_vit(channels=3), tmp_path / "encoder", COLOUR, architecture=NAME)
    for place in (tmp_path, tmp_path / "encoder"):
        with pytest.raises(CheckpointError, match="K-07"):
            load_classifier(str(place))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    small = {key: value for key, value in TINY.items() if key not in ("method", "data", "epochs")}
    out = tmp_path_factory.mktemp("classifier") / "run"
    return api.pretrain("fixmatch-quickstart", "digits", out, steps=20, labels="100", **small)


def test_a_runs_classifier_is_judged_by_what_it_names_right(run):
    found = api.evaluate("classifier", run, "digits")
    classifier, test = load_classifier(str(run)), open_data("digits").test
    (batch,) = eval_batches(test, (16, 16), 1000)
    with torch.no_grad():
        logits = classifier.vit(normalised(batch.views[0], classifier.statistics, 1))
    assert found.accuracy == pytest.approx(float((logits.argmax(1) == batch.labels).double().mean()))
    assert found.protocol == "classifier/1" and found.pictures["test"] == len(test)
    assert "classifier" in "\n".join(found.table())
    assert '"classifier/1"' in (run / "evaluations.jsonl").read_text()


def test_a_classifier_of_other_classes_is_refused(run, tmp_path):
    for name in CLASSES:
        (tmp_path / name).mkdir()
        for i in range(12):
            Image.fromarray(np.full((16, 16), 20 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    with pytest.raises(DataError, match="D-26: .* tells 10 classes apart, which are not the 3"):
        api.evaluate("classifier", run, str(tmp_path))


def some_digits(root, names):
    """The digits of these names, as files: every picture, training and test; their number."""
    digits, count = open_data("digits"), 0
    for part in (digits.train, digits.held_out, digits.test):
        for i in range(len(part)):
            if (name := part.classes[part.labels[i]]) in names:
                (root / name).mkdir(exist_ok=True)
                Image.fromarray(part.read(i)[0].numpy()).save(root / name / f"{count}.png")
                count += 1
    return count


def test_a_set_of_some_classes_is_asked_for_among_these(tmp_path):
    """As ImageNet-A and ImageNet-R are: the answer is the most probable of their classes."""
    names, data, place = ("2", "3", "7"), tmp_path / "digits", str(tmp_path / "c")
    data.mkdir()
    count = some_digits(data, names)
    torch.manual_seed(1)
    vit = with_head(small_vit(size=8, patch=2), nn.Linear(48, 10), "avg")
    paths = sorted(data.rglob("*.png"))
    pixels = torch.from_numpy(np.stack([np.array(Image.open(path)) for path in paths]))[:, None]
    with torch.no_grad():
        vit.head.bias -= vit(normalised(pixels, GREY, 1)).mean(dim=0)  # or its answer were always the same
        said = vit(normalised(pixels, GREY, 1)).tolist()
    write_timm(vit, tmp_path / "c", GREY, architecture=NAME, classes=tuple("0123456789"))
    found = api.evaluate("classifier", place, str(data), all_pictures=True)
    assert found.pictures == {"train": 0, "held_out": 0, "test": count} and found.num_classes == 3
    assert any("3 of the classifier's 10 classes are asked for" in note for note in found.notes)
    assert any(f"all {count} labelled pictures" in note for note in found.notes)
    answers = [max(names, key=lambda name: logits[int(name)]) for logits in said]
    right = [answer == path.parent.name for answer, path in zip(answers, paths, strict=True)]
    assert len(set(answers)) > 1 and found.accuracy == pytest.approx(np.mean(right))
    told = "\n".join(found.table())
    assert "classifier         head" in told and found.to_json()["rows"][0]["scores"]["head"]["held_out"] is None
    part = api.evaluate("classifier", place, str(data))
    assert part.pictures["test"] < count / 4 and part.rows[0].scores["head"].held_out is not None


def test_few_labels_teach_an_evaluation_too(run):
    few = api.evaluate("knn", run, "digits", labels="50", baselines=False)
    assert few.pictures["train"] == 50 and few.pictures["test"] == 359


def test_the_mean_over_classes_counts_each_class_alike(run):
    """Flowers' and Pets' papers report it: the mean of the diagonal of the table of known and named, each row made 1."""
    found = api.evaluate("classifier", run, "digits")
    classifier, test = load_classifier(str(run)), open_data("digits").test
    (batch,) = eval_batches(test, (16, 16), 1000)
    with torch.no_grad():
        named = classifier.vit(normalised(batch.views[0], classifier.statistics, 1)).argmax(1).numpy()
    table = np.zeros((10, 10))
    np.add.at(table, (batch.labels.numpy(), named), 1)
    expected = np.mean(np.diag(table) / table.sum(1))
    score = found.rows[0].scores["head"]
    assert score.details["mean_per_class"] == pytest.approx(expected) and abs(expected - found.accuracy) > 1e-6
    line = next(line for line in found.table() if "mean per class" in line)
    assert line.split()[-1] == f"{100 * expected:.2f}"


def test_the_mean_over_classes_is_of_those_that_are_there():
    known, named = torch.tensor([0, 0, 0, 2]), torch.tensor([0, 0, 1, 2])  # of class 1 there is no picture
    assert mean_per_class(named, known) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_per_class(torch.tensor([1, 1]), torch.tensor([0, 2])) == 0

import numpy as np
import torch

from tutelage.data.index import open_data
from tutelage.evaluation.features import Features
from tutelage.evaluation.parts import Parts, Seen, labelled_parts


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

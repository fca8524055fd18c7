import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from tutelage.data.index import open_data
from tutelage.errors import DataError
from tutelage.evaluation.low_shot import LowShotSettings, draw, refuse_small_classes, score_low_shot
from tutelage.evaluation.parts import Labelled, Split


def blobs(count, *, classes=3, width=6, spread=1.0, seed=0):
    """`count` pictures of each class around its own corner."""
    rng = np.random.default_rng(seed)
    y = np.arange(count * classes) % classes
    return Labelled(
        torch.tensor(3 * np.eye(classes, width)[y] + spread * rng.normal(size=(len(y), width))).float(), torch.tensor(y)
    )


def split(spread=1.0, **options):
    return Split(*(blobs(count, spread=spread, seed=seed, **options) for seed, count in enumerate((30, 20, 25))))


@pytest.mark.parametrize("classes", [2, 5])
def test_classes_far_apart_are_told_apart_from_one_picture_each(classes):
    score = score_low_shot(split(spread=0.01, classes=classes, width=classes), classes, LowShotSettings())
    assert score.held_out == score.test == 1
    assert score.details["test_by_k"] == dict.fromkeys(("1", "2", "5", "10"), 1.0)
    assert score.details["std_by_k"] == dict.fromkeys(("1", "2", "5", "10"), 0.0)


def test_labels_that_say_nothing_teach_nothing():
    train, held_out, test = split(spread=0.5)
    shuffled = train._replace(y=train.y[torch.randperm(len(train.y), generator=torch.Generator().manual_seed(0))])
    assert score_low_shot(Split(train, held_out, test), 3, LowShotSettings()).test > 0.95
    assert score_low_shot(Split(shuffled, held_out, test), 3, LowShotSettings()).test < 0.6


def test_a_draw_takes_as_many_pictures_of_each_class_and_none_twice():
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 2, 0, 1, 1, 0])
    for number in range(4):
        places = draw(labels, 3, 0, number)
        assert labels[places].tolist() == [[0] * 3, [1] * 3, [2] * 3]
        assert len(set(places.flatten().tolist())) == 9


def test_the_pictures_of_fewer_shots_are_among_those_of_more():
    labels = torch.arange(200) % 5
    many = draw(labels, 10, 0, 1)
    for k in (1, 2, 5):
        assert torch.equal(draw(labels, k, 0, 1), many[:, :k])


def test_draws_differ_by_number_and_seed_and_return():
    labels = torch.arange(200) % 5
    first = draw(labels, 5, 0, 0)
    assert torch.equal(first, draw(labels, 5, 0, 0))
    assert not torch.equal(first, draw(labels, 5, 0, 1))
    assert not torch.equal(first, draw(labels, 5, 1, 0))


def test_every_picture_is_drawn_about_as_often():
    drawn = torch.stack([draw(torch.arange(20) % 2, 2, 0, number) for number in range(400)])
    counts = drawn.flatten().bincount(minlength=20)
    assert counts.sum() == 1600 and counts.min() > 50 and counts.max() < 115  # 80 each, deviation 8


def by_hand(x, y, c, classes):
    """Weights [d + 1, classes] that minimise |w|^2 / 2 + c sum of cross-entropies; the last row, the bias, costs nothing."""
    x = np.c_[x, np.ones(len(x))]

    def loss(flat):
        w = flat.reshape(x.shape[1], classes)
        logits = x @ w
        log_sums = np.log(np.exp(logits).sum(axis=1))
        p = np.exp(logits - log_sums[:, None]) - np.eye(classes)[y]
        penalty = np.r_[w[:-1], np.zeros((1, classes))]
        return (w[:-1] ** 2).sum() / 2 + c * (log_sums - logits[np.arange(len(y)), y]).sum(), (
            c * x.T @ p + penalty
        ).ravel()

    found = minimize(loss, np.zeros(x.shape[1] * classes), jac=True, method="BFGS", options={"gtol": 1e-7})
    return found.x.reshape(x.shape[1], classes)


def test_mean_and_deviation_are_those_of_regressions_solved_by_hand():
    parts, settings = split(spread=4.0), LowShotSettings(shots=(2, 5), draws=3, c=(0.01, 1.0), seed=4)
    score = score_low_shot(parts, 3, settings)
    mean, std = parts.train.x.double().mean(dim=0), parts.train.x.double().std(dim=0, correction=0)
    (x, y), (q, yq), (t, yt) = ((((part.x - mean) / std).numpy(), part.y.numpy()) for part in parts)
    best = {}
    for k in settings.shots:
        rows = [draw(parts.train.y, k, 4, number).flatten().numpy() for number in range(3)]
        for c in settings.c:
            found = [by_hand(x[r], y[r], c, 3) for r in rows]
            shares = [[((z @ w[:-1] + w[-1]).argmax(axis=1) == l).mean() for w in found] for z, l in ((q, yq), (t, yt))]
            best[k, c] = np.mean(shares[0]), np.mean(shares[1]), np.std(shares[1], ddof=1)
        chosen = score.details["c_by_k"][str(k)]
        assert best[k, chosen][0] == max(best[k, c][0] for c in settings.c)
        assert score.details["test_by_k"][str(k)] == pytest.approx(best[k, chosen][1])
        assert score.details["std_by_k"][str(k)] == pytest.approx(best[k, chosen][2]) and best[k, chosen][2] > 0
    assert score.details["k"] == 5 and score.test == score.details["test_by_k"]["5"]
    assert score.held_out == pytest.approx(best[5, score.details["c_by_k"]["5"]][0])


def test_c_is_chosen_on_held_out_pictures_though_another_is_better_on_test_pictures():
    """Held-out pictures are labelled as a strong penalty predicts, test pictures as a weak one does, where they differ."""
    train, queries, _ = split(spread=2.0)
    train = Labelled(train.x[:30], train.y[:30])  # 10 of each class: every draw of 10 takes all
    mean, std = train.x.double().mean(dim=0), train.x.double().std(dim=0, correction=0)
    x, q = ((z - mean).div(std).numpy() for z in (train.x, queries.x))
    strong, weak = (
        torch.tensor(LogisticRegression(C=c, max_iter=1000).fit(x, train.y.numpy()).predict(q)) for c in (0.001, 100.0)
    )
    assert 0.02 < (strong != weak).double().mean() < 0.5
    parts = Split(train, Labelled(queries.x, strong), Labelled(queries.x, weak))
    score = score_low_shot(parts, 3, LowShotSettings(shots=(10,), c=(100.0, 0.001)))
    assert score.details["c_by_k"] == {"10": 0.001}
    assert score.held_out == 1
    assert score.test == pytest.approx(float((strong == weak).double().mean()))
    other = score_low_shot(parts._replace(held_out=parts.test), 3, LowShotSettings(shots=(10,), c=(100.0, 0.001)))
    assert other.details["c_by_k"] == {"10": 100.0} and other.test == 1


def test_shift_and_scale_of_a_feature_do_not_matter():
    parts, settings = split(spread=2.0), LowShotSettings(shots=(3,), draws=2)
    moved = Split(*(part._replace(x=part.x * torch.tensor([1, 100, 0.01, 1, 7, 3]) - 5) for part in parts))
    assert score_low_shot(moved, 3, settings).test == pytest.approx(score_low_shot(parts, 3, settings).test, abs=0.01)


def test_classes_smaller_than_the_shots_are_refused_by_name():
    digits = open_data("digits").train.subset(np.arange(60))
    smallest = int(torch.as_tensor(digits.labels).bincount().min())
    refuse_small_classes(digits, LowShotSettings(shots=(1, smallest)))
    with pytest.raises(
        DataError, match=rf"D-16: \d+ of 10 classes have fewer than 50 .*at most {smallest}\)"
    ) as refused:
        refuse_small_classes(digits, LowShotSettings(shots=(50, 1)))
    assert refused.value.exit_code == 3
    with pytest.raises(DataError, match=f"fewer than {smallest + 1} "):
        refuse_small_classes(digits, LowShotSettings(shots=(smallest + 1,)))

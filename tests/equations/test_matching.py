"""Which teacher token labels which student token: oracles 35 to 39, A15 and A16."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from equations import formulas
from equations.tiny import FOLDS, HIDDEN, START, WIDTH, batch, build, pseudomae
from tutelage.encoder import encode
from tutelage.masking import random_mask
from tutelage.method import Method
from tutelage.targets import nearest_tokens, standardise


def tokens(b: int = 2, n: int = HIDDEN) -> Tensor:
    return torch.randn(b, n, WIDTH, dtype=torch.float64)


def nearest_by_loop(y: Tensor, e: Tensor, far: Callable[[np.ndarray, np.ndarray], float]) -> np.ndarray:
    """The least far candidate of the same picture, by comparing each pair."""
    return np.array(
        [
            [np.argmin([far(q, c) for c in candidates]) for q in queries]
            for queries, candidates in zip(y.numpy(), e.numpy(), strict=True)
        ]
    )


def angle(q: np.ndarray, c: np.ndarray) -> float:
    return -formulas.cosine(q, c)


def distance(q: np.ndarray, c: np.ndarray) -> float:
    return float(((q - c) ** 2).sum())


@pytest.mark.parametrize(("metric", "far"), [("cosine", angle), ("l2", distance)])
def test_nearest_tokens_are_those_that_a_loop_finds(metric: str, far: Callable) -> None:
    """A16."""
    y, e = tokens(), tokens(n=40) * (0.5 + torch.rand(2, 40, 1, dtype=torch.float64))
    found = nearest_tokens(y, e, metric)
    assert np.array_equal(found, nearest_by_loop(y, e, far))
    assert found.unique().numel() > 5


def test_a_token_is_nearest_to_itself_and_to_its_place_in_a_permutation() -> None:
    """Oracle 35."""
    e = tokens()
    assert torch.equal(nearest_tokens(e, e), torch.arange(HIDDEN).expand(2, -1))
    order = torch.randperm(HIDDEN)
    assert torch.equal(nearest_tokens(e[:, order], e), order.expand(2, -1))


def test_matches_do_not_depend_on_the_length_of_student_tokens() -> None:
    """Oracle 36."""
    y, e = tokens(), tokens()
    scale = 0.01 + torch.rand(2, HIDDEN, 1, dtype=torch.float64)
    assert torch.equal(nearest_tokens(scale * y, e), nearest_tokens(y, e))


def test_among_candidates_of_equal_length_cosine_and_distance_agree() -> None:
    """Oracle 37."""
    y, e = tokens(), tokens() * (0.3 + torch.rand(2, HIDDEN, 1, dtype=torch.float64))
    assert not torch.equal(nearest_tokens(0.05 * y, e, "l2"), nearest_tokens(y, e, "cosine"))
    e = standardise(e)
    e = e / e.norm(dim=-1, keepdim=True)
    assert torch.equal(nearest_tokens(0.05 * y, e, "l2"), nearest_tokens(y, e, "cosine"))


def test_candidates_never_come_from_another_picture() -> None:
    """Oracle 38."""
    y, e = tokens(), tokens()
    swapped = nearest_tokens(y, e.flip(0))
    for row in range(2):
        assert torch.equal(nearest_tokens(y, e)[row], nearest_tokens(y[row : row + 1], e[row : row + 1])[0])
        assert torch.equal(swapped[row], nearest_tokens(y[row : row + 1], e[1 - row : 2 - row])[0])


def test_matches_are_valid_and_take_no_gradient() -> None:
    """Oracle 39."""
    found = nearest_tokens(tokens().requires_grad_(), tokens(n=16))
    assert not found.requires_grad
    assert found.dtype == torch.int64
    assert 0 <= found.min() <= found.max() < 16


# --- in the method ----------------------------------------------------------------------------------------------------


def matched(**changes: object) -> tuple[Method, Tensor, Tensor, Tensor]:
    """A method, the student's and the labelling teacher's tokens of a batch, and the matches it found."""
    torch.manual_seed(0)
    method = build(pseudomae(**changes))
    data = batch(method)
    out = method(data, START)
    ids = random_mask(data["train"].keys[0], 0.75).ids_mask
    folds = method.settings.label_folds
    e = encode(method.labelling_teacher.encoder, data["train"].views[1], ids, folds).patches
    return method, out.seen["prediction"], e.detach(), out.seen["nearest"]


def patch_loss(method: Method, y: Tensor, labels: Tensor, nearest: np.ndarray) -> float:
    """L_p by loops: nearest [b, h, matches]."""
    logits = method.head(y, "patch").detach().numpy()
    rows = []
    for b in range(y.shape[0]):
        for i in range(y.shape[1]):
            target = np.mean([labels[b, j].numpy() for j in nearest[b, i]], axis=0)
            rows.append(formulas.cross_entropy(logits[b, i], target, 0.1))
    return float(np.mean(rows))


def expected_matches(y: Tensor, e: Tensor, scope: str) -> np.ndarray:
    n = HIDDEN // FOLDS
    if scope == "all":
        return nearest_by_loop(y, e, angle)[..., None]
    parts = [slice(n * k, n * k + n) for k in range(FOLDS)]
    if scope == "same_fold":
        each = [nearest_by_loop(y[:, part], e[:, part], angle) + part.start for part in parts]
        return np.concatenate(each, axis=1)[..., None]
    return np.stack([nearest_by_loop(y, e[:, part], angle) + part.start for part in parts], axis=-1)


@pytest.mark.parametrize("scope", ["all", "same_fold", "per_fold"])
def test_the_scope_says_which_folds_are_searched(scope: str) -> None:
    """A15: all folds, the fold of the same number, or each fold with its labels averaged."""
    method, y, e, nearest = matched(match_scope=scope)
    expected = expected_matches(y, e, scope)
    assert np.array_equal(nearest, expected)
    out = method(batch(method), START)
    loss = patch_loss(method, y, out.seen["patch_labels"], expected)
    assert out.parts["patch"].item() == pytest.approx(loss, abs=1e-10)


def test_the_scopes_differ_with_three_folds_and_agree_with_one() -> None:
    """Oracle 38."""
    three = {scope: matched(match_scope=scope)[3] for scope in ("all", "same_fold")}
    assert not torch.equal(three["all"], three["same_fold"])
    one = [matched(match_scope=scope, label_folds=1)[3] for scope in ("all", "same_fold", "per_fold")]
    assert torch.equal(one[0], one[1])
    assert torch.equal(one[0], one[2])


@pytest.mark.parametrize(
    "changes",
    [
        {"match_feature": "bottleneck"},
        {"match_feature": "logits"},
        {"match_metric": "l2"},
        {"match_norm": "token"},
        {"match_norm": "picture"},
        {"match_norm": "token", "match_metric": "l2"},
    ],
)
def test_the_space_of_matching_is_the_settings(changes: dict[str, str]) -> None:
    """A16: the student's tokens through its head, the teacher's through the teacher's."""
    method, y, e, nearest = matched(**changes)
    teachers_head = method.labelling_teacher["head"]
    space = {
        "token": lambda head, x: x,
        "bottleneck": lambda head, x: head.project(x, "patch").detach(),
        "logits": lambda head, x: head(x, "patch").detach(),
    }[changes.get("match_feature", "token")]
    y, e = space(method.head, y), space(teachers_head, e)
    if "match_norm" in changes:
        per_channel = changes["match_norm"] == "picture"
        rows = e.numpy().swapaxes(1, 2) if per_channel else e.numpy()
        e = formulas.standardise(rows)
        e = torch.from_numpy(e.swapaxes(1, 2).copy() if per_channel else e)
    far = distance if changes.get("match_metric") == "l2" else angle
    assert np.array_equal(nearest[..., 0], nearest_by_loop(y, e, far))
    assert nearest.unique().numel() > 1


def test_labels_move_with_the_order_of_the_folds() -> None:
    """Oracle 36: the patch loss does not depend on which fold is called which."""
    method, y, e, nearest = matched()
    labels = method(batch(method), START).seen["patch_labels"]
    order = torch.arange(HIDDEN).reshape(FOLDS, -1)[[2, 0, 1]].flatten()
    moved = nearest_tokens(y, e[:, order]).unsqueeze(-1)
    assert not torch.equal(moved, nearest)
    assert torch.equal(order[moved], nearest)
    here, there = (patch_loss(method, y, p, n.numpy()) for p, n in ((labels, nearest), (labels[:, order], moved)))
    assert here == pytest.approx(there, abs=1e-12)


def test_under_autocast_tokens_that_share_much_are_still_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 1, 48, generator=generator) + 0.05 * torch.randn(4, 48, 48, generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest_tokens(tokens, tokens)
    assert torch.equal(found, torch.arange(48).expand(4, -1))

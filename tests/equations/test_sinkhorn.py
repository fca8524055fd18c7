"""Sinkhorn assignments: oracles 22 to 29, and the scopes of A13."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from equations import formulas
from tutelage.targets import assign, sinkhorn, standardise_channels, token_target


def logits(rows: int = 96, m: int = 16, spread: float = 0.1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return spread * torch.randn(rows, m, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("iterations", [1, 2, 3, 10])
def test_log_domain_equals_the_published_linear_one(iterations: int) -> None:
    """Oracle 27."""
    x = logits()
    expected = formulas.sinkhorn(x.numpy(), 0.05, iterations)
    np.testing.assert_allclose(sinkhorn(x, 0.05, iterations), expected, atol=1e-12)


@pytest.mark.parametrize("spread", [0.01, 0.3])
def test_every_row_is_a_distribution(spread: float) -> None:
    """Oracle 22."""
    q = sinkhorn(logits(spread=spread), 0.04)
    assert (q >= 0).all()
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-12)


def test_many_rounds_use_every_prototype_equally() -> None:
    """Oracle 23."""
    x = logits()
    np.testing.assert_allclose(sinkhorn(x, 0.1, 100).sum(0) / (96 / 16), 1, rtol=1e-6)
    # Three rounds on peaky logits balance only roughly, where a softmax follows the favourites.
    favourites = x + torch.linspace(0, 0.2, 16, dtype=torch.float64)
    rough, none = (np.ptp((sinkhorn(favourites, 0.02, n).sum(0) / 6).numpy()) for n in (3, 0))
    assert 1e-6 < rough < none / 3


def test_equal_logits_give_uniform_labels() -> None:
    """Oracle 24."""
    q = sinkhorn(torch.full((10, 16), 0.3, dtype=torch.float64), 0.04)
    np.testing.assert_allclose(q, 1 / 16, atol=1e-12)


def test_permuting_rows_or_prototypes_permutes_the_labels() -> None:
    """Oracle 25."""
    x, rows, columns = logits(), torch.randperm(96), torch.randperm(16)
    q = sinkhorn(x, 0.05)
    torch.testing.assert_close(sinkhorn(x[rows], 0.05), q[rows], rtol=0, atol=1e-12)
    torch.testing.assert_close(sinkhorn(x[:, columns], 0.05), q[:, columns], rtol=0, atol=1e-12)


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_constant_per_prototype_does_not_matter(iterations: int) -> None:
    """Oracle 26: what a centre would take away, the first round takes away."""
    x, shift = logits(), torch.randn(16, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(x + shift, 0.05, iterations), sinkhorn(x, 0.05, iterations), rtol=0, atol=1e-12)
    assert (sinkhorn(x + shift, 0.05, 0) - sinkhorn(x, 0.05, 0)).abs().max() > 0.1


def test_no_round_is_a_softmax() -> None:
    np.testing.assert_allclose(sinkhorn(logits(), 0.05, 0), formulas.softmax(logits().numpy() / 0.05), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_huge_logits_stay_finite(dtype: torch.dtype) -> None:
    """Oracle 27: |x / temperature| of 1e4."""
    q = sinkhorn(logits(spread=100).to(dtype), 0.04)
    assert (logits(spread=100) / 0.04).abs().max() > 5e3
    assert q.isfinite().all()
    np.testing.assert_allclose(q.sum(1), 1, atol=1e-5)


def test_assignments_take_no_gradient() -> None:
    """Oracle 29."""
    x = logits().requires_grad_()
    assert not sinkhorn(x, 0.05).requires_grad
    assert not assign(x.reshape(4, 24, 16), 0.05, folds=3).requires_grad


def test_under_autocast_assignments_are_computed_in_float32() -> None:
    """Oracle 29."""
    x = logits().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        q = sinkhorn(x, 0.05)
        half = sinkhorn(x.bfloat16(), 0.05)
    assert q.dtype == half.dtype == torch.float32
    assert torch.equal(q, sinkhorn(x, 0.05))
    np.testing.assert_allclose(half.sum(1), 1, atol=1e-6)


# --- scopes (A13) -----------------------------------------------------------------------------------------------------


def test_global_labels_balance_the_tokens_of_all_pictures_and_folds_together() -> None:
    x = logits().reshape(4, 24, 16)
    expected = formulas.sinkhorn(logits().numpy(), 0.05).reshape(4, 24, 16)
    np.testing.assert_allclose(assign(x, 0.05, folds=3), expected, atol=1e-12)
    np.testing.assert_allclose(assign(x, 0.05, folds=3, scope="per_rank"), expected, atol=1e-12)


def test_labels_per_fold_balance_each_fold_on_its_own() -> None:
    x = logits().reshape(4, 24, 16)
    out = assign(x, 0.05, folds=3, scope="per_fold").numpy()
    for k in range(3):
        rows = slice(8 * k, 8 * k + 8)
        part = x[:, rows].reshape(-1, 16).numpy()
        np.testing.assert_allclose(out[:, rows], formulas.sinkhorn(part, 0.05).reshape(4, 8, 16), atol=1e-12)
    assert np.abs(out - assign(x, 0.05, folds=3).numpy()).max() > 1e-3


def test_positionwise_labels_balance_the_tokens_of_each_position_on_their_own() -> None:
    x = logits().reshape(4, 24, 16)
    positions = torch.stack([torch.randperm(30)[:24] for _ in range(4)])
    out = assign(x, 0.05, folds=3, scope="positionwise", positions=positions).numpy()
    seen = 0
    for position in range(30):
        rows = (positions == position).numpy()
        if rows.any():
            np.testing.assert_allclose(out[rows], formulas.sinkhorn(x.numpy()[rows], 0.05), atol=1e-12)
            seen += rows.sum()
    assert seen == 96


# --- two processes ----------------------------------------------------------------------------------------------------


def test_two_processes_give_the_labels_of_one_with_all_rows(tmp_path) -> None:
    """Oracle 28."""
    mp.spawn(_label_half, args=(str(tmp_path),), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x = logits().reshape(4, 24, 16)
    positions = _positions()
    whole = {
        "global": assign(x, 0.05, folds=3),
        "per_fold": assign(x, 0.05, folds=3, scope="per_fold"),
        "positionwise": assign(x, 0.05, folds=3, scope="positionwise", positions=positions),
        "target": token_target(x, "batch"),
        "gradient": _gradient(x),
    }
    for name, expected in whole.items():
        torch.testing.assert_close(torch.cat([half[name] for half in halves]), expected, rtol=0, atol=1e-10)
    alone = [assign(half, 0.05, folds=3) for half in x.chunk(2)]
    torch.testing.assert_close(torch.cat([half["per_rank"] for half in halves]), torch.cat(alone), rtol=0, atol=1e-12)
    assert (torch.cat(alone) - whole["global"]).abs().max() > 1e-2


def _positions() -> Tensor:
    generator = torch.Generator().manual_seed(8)
    return torch.stack([torch.randperm(30, generator=generator)[:24] for _ in range(4)])


def _gradient(x: Tensor, first: int = 0) -> Tensor:
    """Of a loss that weighs the standardised rows of picture i by i + 1; processes' losses are summed, as DDP's are."""
    x = x.detach().clone().requires_grad_()
    weights = torch.arange(first + 1, first + 1 + len(x), dtype=x.dtype)[:, None, None]
    (standardise_channels(x) ** 3 * weights).sum().backward()
    assert x.grad is not None
    return x.grad


def _label_half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    x, positions = logits().reshape(4, 24, 16).chunk(2)[rank], _positions().chunk(2)[rank]
    scopes = ("global", "per_fold", "per_rank", "positionwise")
    out = {scope: assign(x, 0.05, folds=3, scope=scope, positions=positions) for scope in scopes}
    out["target"] = token_target(x, "batch")
    out["gradient"] = _gradient(x, first=4 * rank // 2)
    torch.save(out, f"{folder}/{rank}.pt")
    dist.destroy_process_group()

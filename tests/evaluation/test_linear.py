import hashlib

import numpy as np
import pytest
import torch
from tests.evaluation.small import encoder, small_vit
from torch import nn

from tutelage.data.index import open_data
from tutelage.evaluation.linear import CachedSettings, MAESettings, _lars, train_cached, train_mae


def blobs(count, width=12, classes=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(count) % classes
    return centres[labels] + torch.randn(count, width, generator=random), labels


def test_a_separable_set_is_learned():
    x, labels = blobs(300)
    new, truth = blobs(90, seed=1)
    heads = train_cached(x, labels, 3, CachedSettings(epochs=20))
    assert (heads.predict(new)[3] == truth).float().mean() > 0.97
    guess = train_cached(x, labels[torch.randperm(300)], 3, CachedSettings(epochs=20))
    assert (guess.predict(new)[3] == truth).float().mean() < 0.7


def test_shift_and_scale_of_a_feature_do_not_matter():
    x, labels = blobs(200)
    settings = CachedSettings(epochs=5)
    plain = train_cached(x, labels, 3, settings).logits(x)
    stretched = 100 * x + 7
    assert torch.allclose(train_cached(stretched, labels, 3, settings).logits(stretched), plain, atol=1e-3)


def test_the_classifiers_side_by_side_are_those_that_torch_trains_alone():
    x, labels = blobs(100)
    settings = CachedSettings(epochs=3, batch_size=40, learning_rates=(0.05, 0.5))
    logits = train_cached(x, labels, 3, settings).logits(x)
    for g, rate in enumerate(settings.learning_rates):
        assert torch.allclose(logits[:, g], _by_torch(x, labels, settings, rate), atol=1e-4)
    assert not torch.allclose(logits[:, 0], logits[:, 1], atol=0.1)


def _by_torch(x, labels, settings, rate):
    """The same training with torch's own BatchNorm statistics, Linear, cross-entropy, SGD and schedule."""
    norm, linear = nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6, momentum=1.0), nn.Linear(x.shape[1], 3)
    norm(x)
    norm.running_var *= (len(x) - 1) / len(x)
    x = norm.eval()(x)
    random = torch.Generator().manual_seed(settings.seed)
    first = nn.init.trunc_normal_(torch.empty(x.shape[1], 3), std=0.01, generator=random)
    with torch.no_grad():
        linear.weight.copy_(first.T)
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9)
    size = min(settings.batch_size, max(32, len(x) // 16))
    steps = -(-len(x) // size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs * steps)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(x), generator=random).split(size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(linear(x[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return linear(x).detach()


def test_a_seed_gives_the_same_classifier_and_another_seed_another():
    x, labels = blobs(100)
    first, again, other = (train_cached(x, labels, 3, CachedSettings(epochs=2, seed=s)).weight for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_learning_rate_that_is_too_large_spoils_no_other():
    x, labels = blobs(100)
    together = train_cached(x, labels, 3, CachedSettings(epochs=4, learning_rates=(0.1, 1e30)))
    alone = train_cached(x, labels, 3, CachedSettings(epochs=4, learning_rates=(0.1,)))
    assert torch.allclose(together.logits(x)[:, 0], alone.logits(x)[:, 0], atol=1e-4)


def test_lars_is_the_one_of_the_paper():
    """w: v <- 0.9 v + 0.001 |w| / |g| g, w <- w - lr v; biases without the factor (You et al. 2017; MAE)."""
    torch.manual_seed(0)
    linear = nn.Linear(4, 3)
    w, b = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    optimizer, speeds = _lars(linear), [np.zeros_like(w), np.zeros_like(b)]
    for step in range(3):
        for group in optimizer.param_groups:
            group["lr"] = 2.0
        gw, gb = np.random.default_rng(step).normal(size=w.shape), np.random.default_rng(step).normal(size=b.shape)
        linear.weight.grad, linear.bias.grad = torch.tensor(gw).float(), torch.tensor(gb).float()
        optimizer.step()
        speeds[0] = 0.9 * speeds[0] + 0.001 * np.linalg.norm(w) / np.linalg.norm(gw) * gw
        speeds[1] = 0.9 * speeds[1] + gb
        w, b = w - 2.0 * speeds[0], b - 2.0 * speeds[1]
    assert linear.weight.detach().numpy() == pytest.approx(w, abs=1e-6)
    assert linear.bias.detach().numpy() == pytest.approx(b, abs=1e-5)


def test_maes_protocol_leaves_the_encoder_as_it_is_and_moves_the_classifier():
    digits = open_data("digits").train
    few = digits.subset(np.arange(96))
    frozen = encoder(small_vit(size=8, patch=2))
    before = _checksum(frozen.vit)
    settings = MAESettings(epochs=6, batch_size=32)
    heads = train_mae(frozen, few, 10, settings)
    assert _checksum(frozen.vit) == before
    assert set(heads) == {"cls", "mean"}
    for head in heads.values():
        assert not head.training
        assert head[0].num_batches_tracked == 18
        assert head[1].bias.abs().max() > 0
    again = train_mae(frozen, few, 10, settings)
    assert all(torch.equal(heads[t][1].weight, again[t][1].weight) for t in heads)


def _checksum(module):
    h = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        h.update(name.encode() + tensor.numpy().tobytes())
    return h.hexdigest()

"""A linear classifier on a frozen encoder: on features computed once, or by MAE's protocol with augmentation."""

from typing import Annotated, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import Field
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock, total_steps, warmup_cosine
from tutelage.config import Count, NonNegative, NonNegativeInt, Positive, Settings
from tutelage.data.index import Pictures
from tutelage.data.streams import PictureStream, batches
from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.evaluation.features import Say, tokens_of
from tutelage.evaluation.parts import Labelled, Split
from tutelage.evaluation.result import Score
from tutelage.export import Encoder

_EPS = 1e-6
_PASS = 256
"""Pictures an encoder takes at once where a batch holds more."""


class CachedSettings(Settings):
    """A linear layer on standardised features that were computed once, without augmentation."""

    epochs: Count = 90
    """Passes over the training features."""
    batch_size: Count = 1024
    """Features in a step; a sixteenth of the set where that is less, but at least 32."""
    learning_rates: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    """Trained side by side; the best on held-out pictures counts."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of SGD."""
    seed: NonNegativeInt = 0
    """Of the first weights and of the order, which torch draws: otherwise before its version 2.12 than since."""


class MAESettings(Settings):
    """MAE's linear probe (He et al. 2022, table 10), trained on augmented pictures."""

    epochs: Count = 90
    """Passes over the training pictures (ViT-L and ViT-H: 50)."""
    batch_size: Count = 16384
    """Pictures in a step; all of them where there are fewer."""
    base_lr: Positive = 0.1
    """Learning rate for 256 pictures: the peak is base_lr x batch / 256."""
    warmup_epochs: NonNegative = 10
    """Linear warm-up from 0; at most a fifth of the epochs."""
    seed: NonNegativeInt = 0
    """Of the first weights, the order and the crops."""


class CachedHeads(NamedTuple):
    """One linear classifier for each learning rate, on standardised features."""

    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]
    weight: Float[Tensor, "d gk"]
    bias: Float[Tensor, "g k"]

    def logits(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n g k"]:
        """What each classifier gives each class."""
        flat = torch.addmm(self.bias.flatten(), (x - self.mean) / self.std, self.weight)
        return flat.view(len(x), *self.bias.shape)

    def predict(self, x: Float[Tensor, "n d"]) -> Int[Tensor, "g n"]:
        """The class that each classifier gives each row."""
        return self.logits(x).argmax(dim=2).T


def train_cached(
    x: Float[Tensor, "n d"], labels: Int[Tensor, " n"], num_classes: int, settings: CachedSettings
) -> CachedHeads:
    """Linear classifiers by SGD with momentum and a cosine to 0, without weight decay, one for each learning rate.

    Features are standardised by their own mean and variance over the training set: a BatchNorm1d without a scale. All
    classifiers start at the same weights and see the same batches; side by side they are one matrix, which is why the
    gradient of the cross-entropy, x^T (softmax - onehot) / b, is written out.
    """
    x, mean, std = standardised(x)
    random = torch.Generator().manual_seed(settings.seed)
    g, k, b = len(settings.learning_rates), num_classes, _batch_size(settings, len(x))
    first = nn.init.trunc_normal_(torch.empty(x.shape[1], k), std=0.01, generator=random)
    weight, bias = first.to(x).repeat(1, g), x.new_zeros(g * k)  # [d, g k], [g k]
    rates = x.new_tensor(settings.learning_rates).repeat_interleave(k)
    weight_speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    steps = -(-len(x) // b)
    schedule = torch.linspace(0, torch.pi, settings.epochs * steps + 1).cos().add(1).div(2).tolist()
    for step, share in enumerate(schedule[:-1]):
        if step % steps == 0:
            order = torch.randperm(len(x), generator=random).to(x.device)
        rows = order[step % steps * b :][:b]
        error = torch.addmm(bias, x[rows], weight).unflatten(1, (g, k)).softmax(dim=2)
        error -= F.one_hot(labels[rows], k)[:, None]
        error = error.flatten(1) / len(rows)
        weight_speed.mul_(settings.momentum).addmm_(x[rows].T, error)
        bias_speed.mul_(settings.momentum).add_(error.sum(dim=0))
        weight -= share * rates * weight_speed
        bias -= share * rates * bias_speed
    return CachedHeads(mean, std, weight, bias.unflatten(0, (g, k)))


class Chosen(NamedTuple):
    """Linear classifiers, and which of them is best on held-out pictures; of equal ones the first."""

    heads: CachedHeads
    best: int
    held_out: float
    """Its share of held-out pictures whose class is predicted."""

    def predict(self, x: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
        """The class that the best one gives each row."""
        return self.heads.predict(x)[self.best]


def choose_cached(train: Labelled, held_out: Labelled, num_classes: int, settings: CachedSettings) -> Chosen:
    """Classifiers trained on the one part, and the best of them on the other."""
    heads = train_cached(*train, num_classes, settings)
    rates = [share(predicted, held_out.y) for predicted in heads.predict(held_out.x)]
    best = max(range(len(rates)), key=rates.__getitem__)
    return Chosen(heads, best, rates[best])


def score_cached(split: Split, num_classes: int, settings: CachedSettings) -> Score:
    """The accuracy of the classifier that is best on held-out pictures."""
    chosen = choose_cached(split.train, split.held_out, num_classes, settings)
    on_test = share(chosen.predict(split.test.x), split.test.y)
    return Score(chosen.held_out, on_test, {"learning_rate": settings.learning_rates[chosen.best]})


def share(predicted: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Share of pictures whose class is predicted."""
    return float((predicted == labels).double().mean())


def standardised(x: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor]:
    """`x` of mean 0 and variance 1 in each column, and the mean and deviation that it had."""
    variance, mean = torch.var_mean(x, dim=0, correction=0)
    std = (variance + _EPS).sqrt()
    return (x - mean) / std, mean, std


def _batch_size(settings: CachedSettings, count: int) -> int:
    return min(settings.batch_size, max(32, count // 16), count)


def train_mae(
    encoder: Encoder,
    pictures: Pictures,
    num_classes: int,
    settings: MAESettings,
    *,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Say | None = None,
) -> dict[str, nn.Module]:
    """A classifier on the class token and one on the mean patch token, trained on the same augmented pictures.

    BatchNorm without a scale and a linear layer; LARS, no weight decay; random crops of 8 to 100 % of the area, and flips.
    The encoder is in eval mode and stays as it is.
    """
    batch_size = min(settings.batch_size, len(pictures))
    clock = Clock(batch_size, len(pictures), total_steps(len(pictures), batch_size, settings.epochs))
    peak, warmup = settings.base_lr * batch_size / 256, min(settings.warmup_epochs, settings.epochs / 5)
    views = ViewsSettings(simple=SimpleView(scale=(0.08, 1.0)))
    stream = PictureStream(pictures, Stream(views=("simple",)), views, encoder.size, 1, settings.seed)
    heads = nn.ModuleDict(
        {token: _head(encoder.vit.embed_dim, num_classes, settings.seed) for token in ("cls", "mean")}
    )
    optimizer = _lars(heads.to(device))
    encoder.vit.to(device).eval()
    for (batch,) in batches(stream, first_step=0, last_step=clock.total_steps, batch_size=batch_size, workers=workers):
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(clock, peak=peak, floor=0.0, warmup_epochs=warmup)
        loss = _mae_loss(encoder, heads, batch, device)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock = clock.tick()
        if say and clock.step % 10 == 0:
            say(f"linear  step {clock.step} of {clock.total_steps}, loss {float(loss) / 2:.3f}")
    return {token: head.eval() for token, head in heads.items()}


def _mae_loss(encoder: Encoder, heads: nn.ModuleDict, batch: Batch, device: torch.device | str) -> Float[Tensor, ""]:
    """The sum of both classifiers' cross-entropies; neither moves the other."""
    parts = [tokens_of(encoder, views.to(device)) for views in batch.views[0].split(_PASS)]
    labels = batch.labels.to(device)
    losses = [F.cross_entropy(heads[t](torch.cat([getattr(part, t) for part in parts])), labels) for t in heads]
    return torch.stack(losses).sum()


def _head(width: int, num_classes: int, seed: int) -> nn.Sequential:
    linear = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=_EPS), linear)


def _lars(heads: nn.Module) -> Lars:
    """LARS as MAE has it: trust 0.001 for matrices, plain momentum SGD for biases, no weight decay."""
    matrices = [p for p in heads.parameters() if p.ndim > 1]
    biases = [p for p in heads.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "always_adapt": True}, {"params": biases, "always_adapt": False}]
    return Lars(groups, lr=0.0, momentum=0.9, trust_coeff=0.001, weight_decay=0.0)

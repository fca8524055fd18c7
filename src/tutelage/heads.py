"""DINO's projection head and its prototypes, and the linear classifier of the methods that learn from labels."""

from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.clock import Clock
from tutelage.config import Count, Depth, Settings, Width
from tutelage.distributed import all_sum
from tutelage.encoder import encode
from tutelage.errors import DataError, SettingsError
from tutelage.precision import wide
from tutelage.targets import standardise_channels

Kind = Literal["class", "patch"]
Pool = Literal["token", "avg"]
"""A classifier reads the class token, or the mean of the patch tokens."""


class HeadSettings(Settings):
    """D -> hidden -> ... -> bottleneck, normalised, then cosine with the prototypes (DINO; methods A9, A10, A12)."""

    prototypes: Count = 4096
    """Number of prototypes (PseudoMAE 3.3)."""
    hidden: Width = 2048
    """Width of the hidden layers."""
    bottleneck: Width = 256
    """Width in which features and prototypes are compared."""
    layers: Depth = 3
    """Number of linear layers before the prototypes."""
    share: Literal["shared", "shared_trunk", "separate"] = "shared"
    """One head for class and patch tokens, one trunk with two sets of prototypes, or two heads (methods A9)."""
    in_norm: Literal["none", "token", "batch"] = "none"
    """Standardise the head's input, without a learned scale: each token over its features, or each feature over the
    tokens of the batch of all processes, which takes out what they share (methods A12)."""


class ProjectionHead(nn.Module):
    """Logits in [-1, 1]: cosines between projected tokens and prototypes, the weight norm's gain frozen at 1."""

    def __init__(self, settings: HeadSettings, width: int, *, discrete: bool = True) -> None:
        """Tokens of `width` in; a head that is not `discrete` projects only, and has no prototypes."""
        super().__init__()
        self.in_norm = settings.in_norm
        trunks = 2 if settings.share == "separate" else 1
        heads = (1 if settings.share == "shared" else 2) if discrete else 0
        self.trunks = nn.ModuleList(_trunk(settings, width) for _ in range(trunks))
        self.prototypes = nn.ModuleList(
            nn.Linear(settings.bottleneck, settings.prototypes, bias=False) for _ in range(heads)
        )

    def forward(self, x: Float[Tensor, "b t d"], kind: Kind) -> Float[Tensor, "b t m"]:
        """Prototype logits of class or patch tokens."""
        return self.logits(self.project(x, kind), kind)

    def project(self, x: Float[Tensor, "b t d"], kind: Kind) -> Float[Tensor, "b t k"]:
        """Tokens in the bottleneck, of length 1."""
        if self.in_norm == "token":
            x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        elif self.in_norm == "batch":
            x = standardise_channels(x)
        # The last is the second where there are two: class tokens take the first of either, patch tokens the last.
        return F.normalize(self.trunks[0 if kind == "class" else -1](x), dim=-1)

    def logits(self, bottleneck: Float[Tensor, "b t k"], kind: Kind) -> Float[Tensor, "b t m"]:
        """Cosines with the prototypes, in at least float32: divided by a temperature of 0.04, bfloat16's error is 0.1."""
        prototypes = self.prototypes[0 if kind == "class" else -1].get_parameter("weight")
        with torch.autocast(bottleneck.device.type, enabled=False):
            return F.linear(bottleneck.to(prototypes.dtype), F.normalize(prototypes, dim=-1))


def _trunk(settings: HeadSettings, width: int) -> nn.Sequential:
    widths = [width, *[settings.hidden] * (settings.layers - 1), settings.bottleneck]
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        linear = nn.Linear(d_in, d_out)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.GELU()]
    return nn.Sequential(*layers[:-1])


def check_rows(rows: int, prototypes: int, what: str) -> None:
    """Refuse fewer Sinkhorn rows than half the prototypes (methods A28)."""
    if 2 * rows < prototypes:
        raise SettingsError(
            "C-23",
            f"Sinkhorn balances {rows} {what} tokens over method.head.prototypes = {prototypes}.",
            "With fewer than half as many rows as prototypes, balanced assignments say little about the pictures.",
            f"Use at most {2 * rows} prototypes, a larger micro-batch, or more processes.",
        )


class Centring(nn.Module):
    """Soft assignments as DINO makes them: logits minus their running mean, then a softmax (arXiv:2104.14294, eq. 4).

    The mean is over the rows of all micro-batches and processes, and follows every applied update by 1 - `momentum`. Unlike
    Sinkhorn it does not make prototypes used equally, it only keeps one from taking everything.
    """

    centre: Tensor
    num_moves: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("num_moves", torch.zeros((), dtype=torch.int64))
        self._sums: list[Tensor] = []

    @torch.no_grad()
    def forward(self, logits: Float[Tensor, "b t m"], temperature: float) -> Float[Tensor, "b t m"]:
        """Assignments by the mean so far; in training the rows count for the next."""
        x = wide(logits)
        if self.training:
            self._sums.append(torch.cat([x.sum((0, 1)), x.new_tensor([float(x.shape[0] * x.shape[1])])]))
        return ((x - self.centre) / temperature).softmax(-1)

    @torch.no_grad()
    def update(self, clock: Clock) -> None:
        """Move the mean where the step just made was applied; its rows are forgotten either way."""
        sums, self._sums = self._sums, []
        if clock.updates > int(self.num_moves):
            total = all_sum(torch.stack(sums).sum(0))
            self.centre.lerp_(total[:-1] / total[-1], 1 - self.momentum)
            self.num_moves.fill_(clock.updates)


# --- a linear classifier ----------------------------------------------------------------------------------------------


def linear_head(width: int, num_classes: int, std: float = 0.02) -> nn.Linear:
    """A fresh classifier: weights from a normal distribution of this deviation, cut off at 2, and biases of 0."""
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=std)
    nn.init.zeros_(head.bias)
    return head


def classify(vit: VisionTransformer, head: nn.Module, x: Float[Tensor, "b c h w"], pool: Pool) -> Float[Tensor, "b m"]:
    """Logits of whole pictures; the mean of the patch tokens passes the ViT's norm for it, where there is one."""
    z = encode(vit, x)
    logits: Tensor = head(z.cls[:, 0] if pool == "token" else vit.fc_norm(z.patches.mean(1)))
    return logits


def check_classes_shown(data: str, shown: int, means: str, todo: str) -> None:
    """Refuse, with D-17, training pictures without labels or all of one class; `means` and `todo` are the method's."""
    if shown < 2:
        raise DataError(
            "D-17",
            f"the training pictures of {data} have no labels."
            if shown == 0
            else f"the labelled training pictures of {data} are all of one class.",
            means,
            todo,
        )


def check_labels_to_guess_from(data: str, shown: int) -> None:
    """Refuse, with D-17, training pictures without labels or all of one class, where those of others are guessed from them."""
    check_classes_shown(
        data,
        shown,
        "Labels of other pictures are guessed from them.",
        "Give --labels labels.csv with the columns path and label, or a set with labels and --labels 40.",
    )

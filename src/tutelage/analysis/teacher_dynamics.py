"""What a teacher that follows its student does to the student's gradient (RC-MAE: Lee et al., ICLR 2023, section 4).

The teacher is the student of some time ago, so what the consistency loss sees is the student's latest updates. In a linear
model this is exact: the gradient is those updates, each weighted by how alike its picture was to the one at hand, and a step
against it takes them back. `correction` and `gradient_cosine` ask the same of any masked autoencoder with a teacher.
"""

import copy
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.encoder import encode
from tutelage.method import Method

# --- the linear model -------------------------------------------------------------------------------------------------


def consistency_gradient(
    student: Float[Tensor, "o d"], teacher: Float[Tensor, "o d"], x: Float[Tensor, " d"]
) -> Float[Tensor, "o d"]:
    """The gradient of |S x - T x|^2 / 2 by S: (S - T) x x^T."""
    return torch.outer((student - teacher) @ x, x)


def consistency_gradient_by_similarity(
    errors: Float[Tensor, "t o"], features: Float[Tensor, "t d"], x: Float[Tensor, " d"], *, momentum: float, lr: float
) -> Float[Tensor, "o d"]:
    """The same gradient after t steps of gradient descent, from nothing but what those steps saw (Proposition 4.1).

    Step i moved the student by -lr e_i x_i^T, with the error e_i = (S - target of its losses) at its input x_i, and the
    teacher, a copy of the student at the start, then by T <- m T + (1 - m) S. So S - T = -lr sum_i m^(t - i + 1) e_i x_i^T,
    and the gradient is -lr sum_i m^(t - i + 1) (x_i . x) e_i x^T: each earlier update, weighted by its age and by the
    similarity of its input to this one.
    """
    t = len(errors)
    ages = momentum ** torch.arange(t, 0, -1, dtype=errors.dtype)
    return -lr * torch.outer((ages * (features @ x)) @ errors, x)


# --- any masked autoencoder -------------------------------------------------------------------------------------------


def gradient_cosine(
    method: Method, batch: dict[str, Batch], clock: Clock, one: str = "reconstruction", other: str = "consistency"
) -> float:
    """The cosine between the gradients of two losses of a step, over the parameters that both reach: 0 is a right angle.

    NaN where a gradient is 0, as a fresh copy's consistency loss has it.
    """
    parts = method(batch, clock).parts
    found = [_gradient(method, parts[name]) for name in (one, other)]
    a, b = (torch.cat([g[name].flatten() for name in found[0] if name in found[1]]) for g in found)
    return float(a @ b / (a.norm() * b.norm()))


class Correction(NamedTuple):
    """What the consistency loss of each probe does to the update that was made last."""

    similarity: Float[Tensor, " n"]
    """Cosine between the student's class tokens of the probe and of the picture that made the update."""
    along: Float[Tensor, " n"]
    """How much of that update a descent step on the consistency loss adds, a unit of learning rate: below 0 takes back."""


def correction(
    method: Method, first: dict[str, Batch], probes: list[dict[str, Batch]], clock: Clock, *, lr: float
) -> Correction:
    """What a teacher corrects after one update, by how alike a probe is to the picture of that update (section 4.2).

    A copy of the method's student makes one step of gradient descent on the reconstruction of `first`, from which its
    teacher is left behind. `first` and each of `probes` hold one picture.
    """
    method = copy.deepcopy(method)
    _catch_up(method)
    update = {
        name: -lr * gradient
        for name, gradient in _gradient(method, method(first, clock).parts["reconstruction"]).items()
    }
    with torch.no_grad():
        for name, change in update.items():
            method.get_parameter(name).add_(change)
    length = torch.stack([u.square().sum() for u in update.values()]).sum()
    seen, along, similarity = _class_token(method, first), [], []
    for probe in probes:
        back = _gradient(method, method(probe, clock).parts["consistency"])
        along.append(
            -torch.stack([(back[name] * update[name]).sum() for name in update if name in back]).sum() / length
        )
        similarity.append(torch.cosine_similarity(_class_token(method, probe), seen, dim=-1)[0])
    return Correction(torch.stack(similarity), torch.stack(along))


def _gradient(method: Method, loss: Tensor) -> dict[str, Tensor]:
    """Of a loss by every parameter that it reaches."""
    named = {name: p for name, p in method.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def _catch_up(method: Method) -> None:
    """Make each network of each teacher a copy of the student's."""
    for teacher in method.teachers.values():
        for name, net in teacher.nets.items():
            source = method.student if name == "encoder" else cast(nn.Module, getattr(method, name))
            net.load_state_dict(source.state_dict())


@torch.no_grad()
def _class_token(method: Method, batch: dict[str, Batch]) -> Float[Tensor, "b d"]:
    """Of whole pictures."""
    return encode(method.student, batch["train"].views[0]).cls[:, 0]

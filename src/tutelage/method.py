"""The whole contract of a method, on one page.

A method is a module: `forward(batch, clock)` makes the loss, `after_step(clock)` moves the teachers. There is no other
lifecycle. Methods import parts; they never import each other, the engine, the data or the command line.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.batch import Annotation, Batch, Stream
from tutelage.clock import Clock
from tutelage.config import Settings
from tutelage.teacher import EMATeacher


class Output(NamedTuple):
    """What a step of a method yields."""

    loss: Float[Tensor, ""]
    """The weighted sum that is minimised."""
    parts: dict[str, Float[Tensor, ""]]
    """Each loss by its name, unweighted."""
    seen: dict[str, Tensor]
    """What the step saw, by name and without gradient: monitors and pictures read it, so they need no hooks."""


class MethodSettings(Settings, ABC):
    """Settings of a method. `name` is the module in `tutelage.methods` that implements it."""

    name: str

    @property
    @abstractmethod
    def streams(self) -> dict[str, Stream]:
        """The streams of pictures that the method needs, with their views and masks; an epoch is one pass over the first's."""

    @property
    def annotation(self) -> Annotation:
        """What its pictures must come with."""
        return "classes"

    @abstractmethod
    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse settings that cannot work with a (rows, columns) of patches, or so many pictures a pass of all processes."""

    def notes(self, num_patches: int, pictures: int) -> list[str]:
        """What is worth saying before a run with these sizes."""
        return []

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse the set called `data`, whose labelled training pictures show this many classes; most methods need none."""

    @abstractmethod
    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "Method":
        """The method around a student, for data of `num_classes` classes."""


class Method(nn.Module, ABC):
    """A pretraining method around a student encoder."""

    student: VisionTransformer

    @abstractmethod
    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """The loss of a micro-batch per stream.

        Random by `batch` alone, but for drop path and mixing by libraries: torch's generator is seeded for each step.
        """

    def after_step(self, clock: Clock) -> None:
        """Move the teachers: called once after every step, applied or not, with the clock already ticked."""

    @property
    def encoder(self) -> VisionTransformer:
        """The encoder that a run is judged by and hands on: the student, unless `settings.hands_on` names a teacher."""
        return self.student

    def classifier(self) -> VisionTransformer | None:
        """A copy of the encoder with the classifier that the run hands on, where the method trains one."""
        return None

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes *pixels"] | None:
        """Of whole pictures (or each of their pixels), by what the run hands on; None where the method trains no classifier."""
        return None

    @property
    def masked(self) -> "Method":
        """The method that the masks and targets of a step are of: this one, or a branch of it."""
        return self

    @property
    def teachers(self) -> dict[str, EMATeacher]:
        """The teachers by name."""
        return {name: module for name, module in self.named_children() if isinstance(module, EMATeacher)}


def seen(**tensors: Tensor | None) -> dict[str, Tensor]:
    """The tensors that are there, without gradient."""
    return {name: tensor.detach() for name, tensor in tensors.items() if tensor is not None}


def total(parts: dict[str, Tensor], weights: dict[str, float]) -> Float[Tensor, ""]:
    """The weighted sum of the parts (PseudoMAE eq. 5)."""
    return torch.stack([weights[name] * part for name, part in parts.items()]).sum()

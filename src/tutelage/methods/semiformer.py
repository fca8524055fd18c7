"""Semiformer (Weng et al., ECCV 2022, arXiv:2111.11067): a convolutional network labels, a Vision Transformer learns beside it.

Few labels teach a convolutional network more than a transformer. Both streams see what the other has seen (`two_streams`); what
the convolutional one is sure of in a weak view teaches both in a strong one. With a masked method as `branch` around the
transformer it is Semi-MAE's variant (Yu et al., 2023, arXiv:2301.01431, Table 2).
"""

from typing import Generic, Literal, TypeVar

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from tutelage.batch import Batch, Stream
from tutelage.branch import beside, branch_around, branch_batch, check_branch, nothing_of, unlabelled_stream
from tutelage.clock import Clock
from tutelage.config import Count, NonNegative, Share
from tutelage.dense import KeptBuffers
from tutelage.distributed import world_size
from tutelage.errors import SettingsError
from tutelage.heads import check_labels_to_guess_from, linear_head
from tutelage.losses import cross_entropy
from tutelage.method import Method, MethodSettings, Output, seen
from tutelage.pseudo_labels import Guesses, guessed, guessed_cross_entropy
from tutelage.teacher import EMATeacher
from tutelage.two_streams import Exchanges, TwoStreams, check_conv

B = TypeVar("B", bound=MethodSettings)
Said = Float[Tensor, "streams b classes"]
"""Logits of the convolutional stream, then of the transformer."""


class SemiformerSettings(MethodSettings, Generic[B]):
    """Semiformer's settings, with the defaults of its code and the readings of docs/methods/semiformer.md."""

    name: Literal["semiformer"] = "semiformer"
    conv: str = "resnet50"
    """The convolutional stream: a ResNet of timm's, from random weights."""
    exchanges: Exchanges = "blocks"
    """Where the streams meet: at each block of the transformer but the first, after three stages, or nowhere."""
    guesses_by: Literal["conv", "vit", "both"] = "conv"
    """Whose guesses are learned from: the convolutional stream's (as published), the transformer's, or both, by the sum."""
    answer: Literal["both", "conv", "vit"] = "both"
    """Who answers at the end: the sum of both streams' logits (as published), or one."""
    unlabelled_weight: NonNegative = 4.0
    """Weight of the loss on guessed labels."""
    unlabelled_ratio: Count = 7
    """Unlabelled pictures of a batch for each labelled one."""
    threshold: Share = 0.7
    """A guess counts where its probability is above this."""
    warmup_epochs: NonNegative = 30
    """Passes over the unlabelled pictures in which only labels are learned from."""
    max_warmup_share: Share = 1 / 20
    """The warm-up takes at most this share of the run: 30 of 600 epochs."""
    label_smoothing: Share = 0.1
    """Share of each known label that is spread evenly over all classes."""
    branch: B | None = None
    """A masked method around the transformer, on the weak view of the unlabelled pictures (Semi-MAE, Table 2)."""
    branch_weight: NonNegative = 5.0
    """Weight of the branch's loss."""

    @property
    def streams(self) -> dict[str, Stream]:
        """Unlabelled pictures, weakly and strongly changed, and what the branch asks for besides; labelled ones, strongly."""
        return {
            "unlabelled": unlabelled_stream(self.branch, self.unlabelled_ratio),
            "labelled": Stream(("strong",), labels="known"),
        }

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse a convolutional stream that is none, and a branch that does not fit."""
        check_conv(self.conv)
        if (labelled := pictures // world_size() // (1 + self.unlabelled_ratio)) < 2:
            raise SettingsError(
                "C-24", f"a pass of a process has {labelled} labelled pictures.", "Batch norms need two to tell them apart.",
                f"Use a micro_batch of {2 * (1 + self.unlabelled_ratio)} or more, or fewer processes.",
            )  # fmt: skip
        check_branch(self.branch, grid, pictures * self.unlabelled_ratio // (1 + self.unlabelled_ratio))

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse training pictures without labels, or all of one class."""
        check_labels_to_guess_from(data, shown)

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "Semiformer":
        """Two streams, one of them the student."""
        return Semiformer(self, vit, num_classes)


class Semiformer(Method):
    """A classifier of two streams that guesses labels, and by option a masked branch around one of them."""

    def __init__(
        self,
        settings: SemiformerSettings,  # type: ignore[type-arg]
        vit: VisionTransformer,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        self.conv = TwoStreams(settings.conv, vit, settings.exchanges)
        self.conv_head = linear_head(self.conv.width, num_classes)
        self.head = linear_head(vit.embed_dim, num_classes)
        if settings.branch:
            self.branch = branch_around(vit, settings.branch)
        self._kept = KeptBuffers()

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """L_s + lambda L_u, each the mean of both streams'; with a branch + mu L_branch. In the warm-up L_s alone."""
        self._kept.keep(self, clock)
        s, unlabelled = self.settings, batch["unlabelled"]
        (x,), labels = batch["labelled"].views, batch["labelled"].labels
        guesses = None if self.warming(clock) else self.guess(unlabelled.views[0])

        said = self.say(x if guesses is None else torch.cat([x, unlabelled.views[1]]))
        known, asked = said[:, : len(x)], said[:, len(x) :]
        parts = {"cross_entropy": torch.stack([cross_entropy(one, labels, s.label_smoothing) for one in known]).mean()}
        loss, found = parts["cross_entropy"], seen(logits=said.sum(0))
        if guesses is not None:
            targets = F.one_hot(guesses.classes, said.shape[-1]).to(guesses.confidence.dtype)
            parts["unlabelled"] = torch.stack(
                [guessed_cross_entropy(one, targets, guesses.sure) for one in asked]
            ).mean()
            loss = loss + s.unlabelled_weight * parts["unlabelled"]
            found |= seen(guesses=guesses.classes, sure=guesses.sure, guessed_labels=unlabelled.labels)
        if s.branch and guesses is None:
            loss = loss + nothing_of(self.branch)
        elif s.branch:
            output = self.branch(branch_batch(unlabelled), clock)
            parts = beside(parts, output.parts)
            loss, found = loss + s.branch_weight * output.loss, found | output.seen
        return Output(loss, parts, found)

    def after_step(self, clock: Clock) -> None:
        """A skipped step leaves no trace in the batch norms' running statistics; the branch's teachers follow."""
        self._kept.settle(self, clock)
        if self.settings.branch:
            self.branch.after_step(clock)

    @property
    def teachers(self) -> dict[str, EMATeacher]:
        """The branch's."""
        return super().teachers | (self.branch.teachers if self.settings.branch else {})

    @property
    def masked(self) -> Method:
        """The branch, where there is one."""
        return self.branch if self.settings.branch else self

    def warming(self, clock: Clock) -> bool:
        """Whether only labels are learned from yet."""
        return clock.within(self.settings.warmup_epochs, self.settings.max_warmup_share)

    def say(self, x: Float[Tensor, "b c h w"]) -> Said:
        """Logits of both streams."""
        both = self.conv(self.student, x)
        return torch.stack([self.conv_head(both.conv), self.head(both.token)])

    @torch.no_grad()
    def guess(self, weak: Float[Tensor, "b c h w"]) -> Guesses:
        """What a stream names the weak views, as it would be tested: with running statistics and without drop path."""
        training = self.training
        self.eval()
        said = self.say(weak)
        self.train(training)
        return guessed(_by(self.settings.guesses_by, said), self.settings.threshold)

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """By who answers."""
        return _by(self.settings.answer, self.say(x))


def _by(who: Literal["conv", "vit", "both"], said: Said) -> Float[Tensor, "b classes"]:
    return said.sum(0) if who == "both" else said[("conv", "vit").index(who)]

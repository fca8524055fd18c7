"""FixMatch (Sohn et al., NeurIPS 2020, arXiv:2001.07685) on a Vision Transformer, and Semi-MAE (Yu et al., 2023,
arXiv:2301.01431): beside it a masked branch around the same encoder.

Few pictures have labels. The others are labelled by what the network itself is sure of when it sees them weakly changed, and
learned from when they are strongly changed. Semi-MAE's branch is any masked method; without one this is FixMatch.
"""

from typing import Generic, Literal, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.batch import Batch, Stream
from tutelage.branch import beside, branch_around, branch_batch, check_branch, nothing_of, unlabelled_stream
from tutelage.clock import Clock
from tutelage.config import Count, NonNegative, Share
from tutelage.encoder import with_head
from tutelage.heads import Pool, check_labels_to_guess_from, classify, linear_head
from tutelage.losses import cross_entropy
from tutelage.method import Method, MethodSettings, Output, seen
from tutelage.mixing import mix_pairs, mixed_targets, neighbours_of, pair_weights
from tutelage.pseudo_labels import Guesses, guessed, guessed_cross_entropy
from tutelage.teacher import EMATeacher, TeacherSettings, check_teacher

B = TypeVar("B", bound=MethodSettings)


class SemiMAESettings(MethodSettings, Generic[B]):
    """Semi-MAE's settings, with its published defaults and the readings of docs/methods/semi_mae.md (S1 to S10)."""

    name: Literal["semi_mae"] = "semi_mae"
    branch: B | None = None
    """A masked method around the same encoder, on the weak view of the unlabelled pictures; none is FixMatch."""
    branch_weight: NonNegative = 5.0
    """Weight of the branch's loss (eq. 3: mu)."""
    unlabelled_weight: NonNegative = 10.0
    """Weight of the loss on guessed labels (eq. 3: lambda)."""
    unlabelled_ratio: Count = 7
    """Unlabelled pictures of a batch for each labelled one (4.1)."""
    threshold: Share = 0.7
    """A guess counts where its probability is above this (eq. 2: tau; methods S1)."""
    warmup_epochs: NonNegative = 100
    """Passes over the unlabelled pictures in which only labels are learned from (4.1)."""
    warmup_branch: bool = False
    """The branch learns in the warm-up too (methods S2)."""
    max_warmup_share: Share = 1 / 7
    """The warm-up takes at most this share of the run: 100 of 700 epochs."""
    label_smoothing: Share = 0.0
    """Share of each known label that is spread evenly over all classes."""
    mixing: Literal["none", "probabilistic"] = "none"
    """Mix strong views in pairs, the surer guess more, and count a pair as sure as the surer of the two (Semi-ViT's
    probabilistic pseudo mixup); guesses are then smoothed as labels are. Pairs are made within a micro-batch."""
    pool: Pool = "token"
    """The classifier reads the class token, or the mean of the patch tokens (methods S9)."""
    teacher: TeacherSettings | None = None
    """Average encoder and classifier into a teacher; none by default, as the paper's equations."""
    guesses_by: Literal["student", "teacher"] = "student"
    """Whose guesses are learned from: the student's own, or its teacher's (Semi-ViT; methods S6)."""
    hands_on: Literal["student", "teacher"] = "student"
    """Whose encoder and classifier the run is judged by and exports."""

    @property
    def mixes(self) -> bool:
        """Whether strong views are mixed; a row of random keys of theirs more is then asked for."""
        return self.mixing == "probabilistic"

    @property
    def streams(self) -> dict[str, Stream]:
        """Unlabelled pictures with a weak and a strong view, and what the branch asks for besides; labelled ones."""
        return {
            "unlabelled": unlabelled_stream(self.branch, self.unlabelled_ratio, self.mixes),
            "labelled": Stream(("weak",), labels="known"),
        }

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse a branch that does not fit, and a teacher that is asked for and not there."""
        check_teacher(self.teacher, guesses_by=self.guesses_by, hands_on=self.hands_on)
        check_branch(self.branch, grid, pictures * self.unlabelled_ratio // (1 + self.unlabelled_ratio))

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse training pictures without labels, or all of one class."""
        check_labels_to_guess_from(data, shown)

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "SemiMAE":
        """FixMatch, or Semi-MAE, around a student."""
        return SemiMAE(self, vit, num_classes)


class Asked(NamedTuple):
    """What the strong views are to be named."""

    pictures: Float[Tensor, "b c h w"]
    targets: Float[Tensor, "b classes"]
    sure: Bool[Tensor, " b"]


class SemiMAE(Method):
    """A classifier that guesses labels, and by option a masked branch beside it."""

    def __init__(
        self,
        settings: SemiMAESettings,  # type: ignore[type-arg]
        vit: VisionTransformer,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.student = vit
        self.head = linear_head(vit.embed_dim, num_classes)
        if settings.branch:
            self.branch = branch_around(vit, settings.branch)
        if settings.teacher:
            self.teacher = EMATeacher(settings.teacher, encoder=vit, head=self.head)

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """L_s + lambda L_u + mu L_MAE (eq. 3); in the warm-up L_s alone, or with the branch."""
        s, unlabelled = self.settings, batch["unlabelled"]
        (x,), labels = batch["labelled"].views, batch["labelled"].labels
        warming = self.warming(clock)

        guesses = None if warming or not s.unlabelled_weight else self.guess(unlabelled.views[0])
        asked = None if guesses is None else self.ask(unlabelled, guesses)
        logits = self.classify(x if asked is None else torch.cat([x, asked.pictures]))  # [b + u, classes]
        parts = {"cross_entropy": cross_entropy(logits[: len(x)], labels, s.label_smoothing)}  # eq. 1
        loss, found = parts["cross_entropy"], seen(logits=logits)
        if guesses is not None and asked is not None:
            parts["unlabelled"] = guessed_cross_entropy(logits[len(x) :], asked.targets, asked.sure)  # eq. 2
            loss = loss + s.unlabelled_weight * parts["unlabelled"]
            found |= seen(guesses=guesses.classes, sure=guesses.sure, guessed_labels=unlabelled.labels)
        if s.branch and warming and not s.warmup_branch:
            loss = loss + nothing_of(self.branch)
        elif s.branch:
            output = self.branch(branch_batch(unlabelled, s.mixes), clock)
            parts = beside(parts, output.parts)
            loss, found = loss + s.branch_weight * output.loss, found | output.seen
        return Output(loss, parts, found)

    def after_step(self, clock: Clock) -> None:
        """The teachers follow: its own by option, and the branch's."""
        if "teacher" in self.teachers:
            self.teacher.update(clock, encoder=self.student, head=self.head)
        if self.settings.branch:
            self.branch.after_step(clock)

    @property
    def teachers(self) -> dict[str, EMATeacher]:
        """Its own, and the branch's."""
        return super().teachers | (self.branch.teachers if self.settings.branch else {})

    @property
    def encoder(self) -> VisionTransformer:
        """The student, unless the settings name the teacher."""
        return self.student if self.settings.hands_on == "student" else self.teacher.encoder

    def classifier(self) -> VisionTransformer:
        """The student with its head, unless the settings name the teacher."""
        head = self.head if self.settings.hands_on == "student" else cast(nn.Linear, self.teacher["head"])
        return with_head(self.encoder, head, self.settings.pool)

    def logits(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """By the classifier that is handed on."""
        return self.classify(x, teacher=self.settings.hands_on == "teacher")

    @property
    def masked(self) -> Method:
        """The branch, where there is one."""
        return self.branch if self.settings.branch else self

    def warming(self, clock: Clock) -> bool:
        """Whether only labels are learned from yet."""
        return clock.within(self.settings.warmup_epochs, self.settings.max_warmup_share)

    def classify(self, x: Float[Tensor, "b c h w"], *, teacher: bool = False) -> Float[Tensor, "b classes"]:
        """Logits of the student's classifier, or its teacher's."""
        encoder, head = (self.teacher.encoder, self.teacher["head"]) if teacher else (self.student, self.head)
        return classify(encoder, head, x, self.settings.pool)

    @torch.no_grad()
    def guess(self, weak: Float[Tensor, "b c h w"]) -> Guesses:
        """The most probable class of each picture, and whether it is probable enough."""
        logits = self.classify(weak, teacher=self.settings.guesses_by == "teacher")
        return guessed(logits, self.settings.threshold)

    @torch.no_grad()
    def ask(self, unlabelled: Batch, guesses: Guesses) -> Asked:
        """The strong views with the guesses as targets; mixed in pairs by option, as sure as the surer one."""
        s, strong, num_classes = self.settings, unlabelled.views[1], self.head.out_features
        if not s.mixes:
            targets = F.one_hot(guesses.classes, num_classes).to(guesses.confidence.dtype)
            return Asked(strong, targets, guesses.sure)
        pair = neighbours_of(len(strong), strong.device)
        weights = pair_weights(guesses.confidence, pair)
        mixed, weights = mix_pairs(strong, pair, weights, unlabelled.keys[-1][:, :3])
        targets = mixed_targets(guesses.classes, pair, weights, num_classes, s.label_smoothing)
        return Asked(mixed, targets, guesses.sure | guesses.sure[pair])

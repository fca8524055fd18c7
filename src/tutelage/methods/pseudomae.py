"""PseudoMAE (Nandam et al., BMVC 2024, arXiv:2406.17450): one teacher labels, one teacher rebuilds.

Where the paper's text contradicts itself or is silent, the reading taken is named by its number in docs/methods/
pseudomae.md (A1 to A30), and those that change results are settings.
"""

import math
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.batch import Batch, Stream
from tutelage.clock import Clock, CosineMomentum, LinearRamp
from tutelage.config import Count, NonNegative, NonNegativeInt, Positive, Ratio
from tutelage.decoder import Decoder, DecoderSettings
from tutelage.distributed import world_size
from tutelage.encoder import Tokens, encode, grid_of, initialise, patch_of
from tutelage.errors import SettingsError
from tutelage.heads import Centring, HeadSettings, Kind, ProjectionHead, check_rows
from tutelage.losses import CosAxis, cosine_loss, masked_mse, soft_cross_entropy
from tutelage.masking import PatchMask, check_folds, check_mask, gather, random_mask, visible_count
from tutelage.method import Method, MethodSettings, Output, seen, total
from tutelage.precision import wide
from tutelage.targets import (
    SinkhornScope,
    TargetNorm,
    assign,
    nearest_tokens,
    patchify,
    standardise,
    token_target,
)
from tutelage.teacher import EMATeacher, TeacherSettings


class PseudoMAESettings(MethodSettings):
    """PseudoMAE's settings, with the published defaults and the readings of docs/methods/pseudomae.md."""

    name: Literal["pseudomae"] = "pseudomae"
    mask_ratio: Ratio = 0.75
    """Share of the patches hidden from the student."""
    folds: Count = 3
    """Groups in which the reconstruction teacher sees the hidden patches; must divide their number."""
    label_folds: Count = 3
    """Groups in which the labelling teacher sees its patches (3.3); 1 is Table 9's "normal clustering"."""
    decoder: DecoderSettings = DecoderSettings()
    head: HeadSettings = HeadSettings()

    teacher_mode: Literal["dual", "single", "single-two-forwards"] = "dual"
    """Two disentangled teachers, or one (the labelling teacher) for both targets: in one pass over the simple view, or
    in a pass over each view (methods A21)."""
    reconstruction_teacher: TeacherSettings = TeacherSettings(
        every="epoch", momentum=CosineMomentum(start=0.96, end=0.99)
    )
    labelling_teacher: TeacherSettings = TeacherSettings(every="step", momentum=CosineMomentum(start=0.996, end=1.0))
    head_teacher: Literal["ema", "student"] = "ema"
    """The labelling teacher's head follows the student's, or is the student's, without gradient (methods A11)."""

    reconstruction_target: Literal["teacher", "pixels"] = "teacher"
    """The reconstruction teacher's tokens; or, for an ablation, the standardised pixels of the hidden patches, as MAE, by a
    linear layer more and without that teacher."""
    target_norm: TargetNorm = "token"
    """Over what the reconstruction target is standardised (eq. 2; methods A3 and 1.11)."""
    cos_axis: CosAxis = "feature"
    """Compare tokens over their features, or channels over the tokens of a fold (methods A1)."""

    label_mask: Literal["same", "independent", "unmasked"] = "same"
    """The labelling teacher sees the patches that are hidden from the student, those of another mask, or all (A5)."""
    class_source: Literal["decoder", "encoder"] = "decoder"
    """Where the student's class token is taken for the class label (methods A8)."""
    assignment: Literal["sinkhorn", "centring", "none"] = "sinkhorn"
    """How the labelling teacher's tokens become labels (methods A20): balanced over the prototypes, or centred as DINO's. Or
    for an ablation not at all: the student predicts the teacher's vector in the head's bottleneck, by its cosine."""
    sinkhorn_scope: SinkhornScope = "global"
    """Which rows are balanced together (methods A13)."""
    sinkhorn_iterations: NonNegativeInt = 3
    """Rounds of balancing; 0 is a plain softmax."""
    student_temperature: Positive = 0.1
    """Sharpness of the student's predictions."""
    teacher_temperature: LinearRamp = LinearRamp(start=0.04, end=0.07, epochs=30)
    """Sharpness of the labels, as DINO warms it up (methods A18)."""
    match_scope: Literal["all", "same_fold", "per_fold"] = "all"
    """Nearest teacher token among all folds, in the fold of the same number, or one in each fold, averaged (A15)."""
    match_feature: Literal["token", "bottleneck", "logits"] = "token"
    """Space in which the nearest teacher token is sought: before the head, in its bottleneck, or its logits (A16)."""
    match_metric: Literal["cosine", "l2"] = "cosine"
    """Distance by which it is sought (methods A16)."""
    match_norm: TargetNorm = "none"
    """Over what the teacher's tokens are standardised before matching, as `target_norm` (methods A16). The student's
    outputs are near the reconstruction target: with the same here, both are in the same space."""

    reconstruction_weight: NonNegative = 1.0
    """lambda_m of eq. 5; 0 drops the loss."""
    class_weight: NonNegative = 1.0
    """lambda_c of eq. 5; 0 drops the loss."""
    patch_weight: NonNegative = 1.0
    """lambda_p of eq. 5; 0 drops the loss. Without both label losses this is SdAE."""

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the losses that are not dropped."""
        weights = {
            "reconstruction": self.reconstruction_weight,
            "class": self.class_weight,
            "patch": self.patch_weight,
        }
        return {name: weight for name, weight in weights.items() if weight > 0}

    @property
    def norm_pix(self) -> bool:
        """Where pixels are the target they are standardised in each patch."""
        return True

    @property
    def rebuilds_tokens(self) -> bool:
        """Whether a teacher's tokens are a target."""
        return self.reconstruction_weight > 0 and self.reconstruction_target == "teacher"

    @property
    def rebuilds_pixels(self) -> bool:
        """Whether pixels are a target."""
        return self.reconstruction_weight > 0 and self.reconstruction_target == "pixels"

    @property
    def discrete(self) -> bool:
        """Whether labels are assignments to prototypes."""
        return self.assignment != "none"

    @property
    def labels(self) -> bool:
        """Whether there is a label loss."""
        return self.class_weight > 0 or self.patch_weight > 0

    def label_tokens(self, num_patches: int) -> int:
        """How many patches of a picture the labelling teacher sees."""
        hidden = num_patches - visible_count(num_patches, self.mask_ratio)
        return num_patches if self.label_mask == "unmasked" else hidden

    def sinkhorn_rows(self, num_patches: int, pictures: int) -> dict[Kind, int]:
        """Rows that each Sinkhorn call balances over `pictures` pictures, for class and patch tokens."""
        patches = self.label_tokens(num_patches)
        pictures = pictures // world_size() if self.sinkhorn_scope == "per_rank" else pictures
        if self.sinkhorn_scope == "positionwise":
            return {"class": pictures * self.label_folds, "patch": pictures * patches // num_patches}
        folds = 1 if self.sinkhorn_scope == "per_fold" else self.label_folds
        return {"class": pictures * folds, "patch": pictures * patches * folds // self.label_folds}

    @property
    def streams(self) -> dict[str, Stream]:
        """A view for the student and the reconstruction teacher, one for the labelling teacher."""
        return {"train": Stream(views=("simple", "complex"))}

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse masks, folds and numbers of prototypes that do not fit."""
        num_patches = math.prod(grid)
        check_mask(num_patches, self.mask_ratio)
        check_folds(num_patches, self.mask_ratio, self.folds)
        self.decoder.check()
        if not self.weights:
            raise SettingsError("C-24", "all three loss weights are 0.", "There is nothing to learn from.")
        if set(self.weights) == {"class"} and self.class_source == "encoder":
            raise SettingsError(
                "C-24",
                "method.class_source 'encoder' with the class loss alone leaves the decoder without a loss.",
                todo="Use class_source decoder, or another loss beside it.",
            )
        if not self.labels:
            return
        if self.label_mask == "unmasked":
            if self.match_scope == "same_fold" or num_patches % self.label_folds:
                raise SettingsError(
                    "C-21",
                    f"method.label_mask 'unmasked' shows the labelling teacher {num_patches} patches, which do not fit "
                    f"method.label_folds {self.label_folds} with method.match_scope '{self.match_scope}'.",
                    todo="Use label_folds 1 and match_scope all.",
                )
        else:
            check_folds(num_patches, self.mask_ratio, self.label_folds, "method.label_folds")
        if not self.discrete and self.match_feature == "logits":
            raise SettingsError(
                "C-24",
                "method.assignment 'none' has no prototypes, which method.match_feature 'logits' needs.",
                todo="Use match_feature token or bottleneck.",
            )
        if self.assignment == "sinkhorn":
            for kind, count in self.sinkhorn_rows(num_patches, pictures).items():
                if kind in self.weights:
                    check_rows(count, self.head.prototypes, kind)

    def notes(self, num_patches: int, pictures: int) -> list[str]:
        """How many rows each Sinkhorn call balances (methods A28)."""
        if not self.labels or self.assignment != "sinkhorn":
            return []
        rows = self.sinkhorn_rows(num_patches, pictures)
        told = f"{rows['class']:,} class and {rows['patch']:,} patch tokens over {self.head.prototypes:,} prototypes"
        return [f"labels  Sinkhorn balances {told}"]

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "PseudoMAE":
        """PseudoMAE around a student."""
        return PseudoMAE(self, vit)


class Labelling(NamedTuple):
    """What the labelling teacher saw of a micro-batch."""

    tokens: Tokens
    """Class tokens [b, k, d] and patch tokens [b, n, d] of its folds."""
    ids: Int[Tensor, "b n"]
    """Places of the patches."""


class PseudoMAE(Method):
    """Masked autoencoder with a labelling and a reconstruction teacher."""

    def __init__(self, settings: PseudoMAESettings, vit: VisionTransformer) -> None:
        super().__init__()
        s = self.settings = settings
        self.student = vit
        self.decoder = Decoder(s.decoder, width_in=vit.embed_dim, out=vit.embed_dim, grid=grid_of(vit))
        if s.rebuilds_tokens and s.teacher_mode == "dual":
            self.reconstruction_teacher = EMATeacher(s.reconstruction_teacher, encoder=vit)
        elif s.rebuilds_pixels:
            self.pixels = nn.Linear(vit.embed_dim, math.prod(patch_of(vit)) * vit.patch_embed.proj.in_channels)
            initialise(self.pixels)
        # The head comes last, so that without label losses the weights begin as SdAE's.
        if s.labels:
            # One label loss needs one head: a second would get no gradient.
            both = s.class_weight > 0 and s.patch_weight > 0
            head = s.head if both else s.head.model_copy(update={"share": "shared"})
            self.head = ProjectionHead(head, vit.embed_dim, discrete=s.discrete)
        if s.assignment == "centring":
            kinds = s.weights.keys() - {"reconstruction"}
            self.centres = nn.ModuleDict({kind: Centring(s.head.prototypes) for kind in sorted(kinds)})
        if s.labels or (s.rebuilds_tokens and s.teacher_mode != "dual"):
            self.labelling_teacher = EMATeacher(s.labelling_teacher, **self._labelling_students())

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """lambda_m L_m + lambda_c L_c + lambda_p L_p (eq. 5), on the decoder's outputs for the hidden patches."""
        s = self.settings
        x, x_complex = batch["train"].views
        keys, keys_complex = batch["train"].keys
        mask = random_mask(keys, s.mask_ratio)
        parts: dict[str, Tensor] = {}

        z = encode(self.student, x, mask.ids_keep)
        out = self.decoder(z, mask)
        y = mask.hidden(out.patches)  # [b, h, d]
        t, e = self._targets(x, x_complex, mask, random_mask(keys_complex, s.mask_ratio))

        pixels = self.pixels(out.patches) if s.rebuilds_pixels else None  # [b, n, p]
        watched = seen(ids_mask=mask.ids_mask, pixels=pixels, prediction=y if pixels is None else None, target=t)
        if t is not None and pixels is not None:
            parts["reconstruction"] = masked_mse(mask.hidden(pixels), t)
        elif t is not None:
            parts["reconstruction"] = cosine_loss(y, t, axis=s.cos_axis, folds=s.folds)  # eq. 1
        if e is not None and s.class_weight > 0:
            c = self._assign(e.tokens.cls, "class", e.ids, clock)  # [b, k, m]
            token = out.cls if s.class_source == "decoder" else z.cls
            parts["class"] = self._label_loss(token, "class", c.mean(1, keepdim=True))  # eq. 4
            watched |= seen(class_labels=c) if s.discrete else {}
        if e is not None and s.patch_weight > 0:
            p = self._assign(e.tokens.patches, "patch", e.ids, clock)  # [b, n, m]
            nearest = self._nearest(y, e.tokens.patches)  # [b, h, matches]
            parts["patch"] = self._label_loss(y, "patch", _matched(p, nearest))  # eq. 3
            watched |= seen(nearest=nearest, patch_labels=p) if s.discrete else {}
        return Output(total(parts, s.weights), parts, watched)

    def after_step(self, clock: Clock) -> None:
        """The labelling teacher follows every step, the reconstruction teacher every epoch (3.2)."""
        if "labelling_teacher" in self.teachers:
            self.labelling_teacher.update(clock, **self._labelling_students())
        if "reconstruction_teacher" in self.teachers:
            self.reconstruction_teacher.update(clock, encoder=self.student)
        for centre in self.centres.values() if self.settings.assignment == "centring" else ():
            cast(Centring, centre).update(clock)

    def _labelling_students(self) -> dict[str, torch.nn.Module]:
        with_head = self.settings.labels and self.settings.head_teacher == "ema"
        return {"encoder": self.student, **({"head": self.head} if with_head else {})}

    @property
    def _teacher_head(self) -> ProjectionHead:
        if self.settings.head_teacher == "student":
            return self.head
        return cast(ProjectionHead, self.labelling_teacher["head"])

    @torch.no_grad()
    def _targets(
        self, x: Tensor, x_complex: Tensor, mask: PatchMask, other: PatchMask
    ) -> tuple[Tensor | None, Labelling | None]:
        """The reconstruction target (eq. 2), and the tokens that labels are made of (3.3), from two teachers or one."""
        s = self.settings
        t: Tensor | None = None
        tokens: Tokens | None = None
        if s.rebuilds_tokens:
            name = "reconstruction_teacher" if s.teacher_mode == "dual" else "labelling_teacher"
            tokens = encode(self.teachers[name].encoder, x, mask.ids_mask, s.folds)
            t = token_target(tokens.patches, s.target_norm)
        elif s.rebuilds_pixels:
            t = mask.hidden(standardise(patchify(x, patch_of(self.student))))
        if not s.labels:
            return t, None
        everything = torch.arange(math.prod(grid_of(self.student)), device=x.device).expand(len(x), -1)
        ids = {"same": mask.ids_mask, "independent": other.ids_mask, "unmasked": everything}[s.label_mask]
        if s.teacher_mode == "single" and tokens and s.label_mask == "same" and s.label_folds == s.folds:
            return t, Labelling(tokens, ids)  # one pass gives both targets
        view, shown = x if s.teacher_mode == "single" else x_complex, None if s.label_mask == "unmasked" else ids
        return t, Labelling(encode(self.labelling_teacher.encoder, view, shown, s.label_folds), ids)

    @torch.no_grad()
    def _assign(
        self, tokens: Float[Tensor, "b t d"], kind: Kind, ids: Int[Tensor, "b n"], clock: Clock
    ) -> Float[Tensor, "b t m"]:
        """The labels of the labelling teacher's class or patch tokens: assignments, or vectors in the bottleneck."""
        s, head = self.settings, self._teacher_head
        if not s.discrete:
            return wide(head.project(tokens, kind))
        logits, temperature = head(tokens, kind), s.teacher_temperature(clock)
        if s.assignment == "centring":
            centred: Tensor = self.centres[kind](logits, temperature)
            return centred
        positions = ids if kind == "patch" else None
        scope, iterations = s.sinkhorn_scope, s.sinkhorn_iterations
        return assign(logits, temperature, folds=s.label_folds, scope=scope, iterations=iterations, positions=positions)

    def _label_loss(self, tokens: Float[Tensor, "b t d"], kind: Kind, labels: Float[Tensor, "b t m"]) -> Tensor:
        """Cross-entropy with assignments; with vectors one minus the cosine, which averages like it."""
        if not self.settings.discrete:
            return 1 - (wide(self.head.project(tokens, kind)) * labels).sum(-1).mean()
        return soft_cross_entropy(self.head(tokens, kind), labels, self.settings.student_temperature)

    @torch.no_grad()
    def _nearest(self, y: Float[Tensor, "b h d"], e: Float[Tensor, "b n d"]) -> Int[Tensor, "b h matches"]:
        """For each student token the teacher tokens of the same picture whose labels it takes (methods A15, A16)."""
        s = self.settings
        y, e = self._match_space(y, teacher=False), self._match_space(e, teacher=True)
        if s.match_scope == "all" or s.label_folds == 1:
            return nearest_tokens(y, e, s.match_metric).unsqueeze(-1)
        (b, h, d), (n, k) = y.shape, (e.shape[1], s.label_folds)
        folds = e.reshape(b, k, n // k, d)
        if s.match_scope == "same_fold":
            queries = y.reshape(b * k, h // k, d)
            inside = nearest_tokens(queries, folds.reshape(b * k, n // k, d), s.match_metric).reshape(b, k, h // k)
            offsets = (n // k) * torch.arange(k, device=y.device)[:, None]
            return (inside + offsets).reshape(b, h, 1)
        each = [nearest_tokens(y, fold, s.match_metric) + i * (n // k) for i, fold in enumerate(folds.unbind(1))]
        return torch.stack(each, dim=-1)

    def _match_space(self, x: Float[Tensor, "b n d"], *, teacher: bool) -> Float[Tensor, "b n k"]:
        """Tokens in the space in which they are matched."""
        s = self.settings
        head = self._teacher_head if teacher else self.head
        if s.match_feature == "bottleneck":
            x = head.project(x, "patch")
        elif s.match_feature == "logits":
            x = head(x, "patch")
        return token_target(x, s.match_norm) if teacher else x


def _matched(labels: Float[Tensor, "b n m"], nearest: Int[Tensor, "b h matches"]) -> Float[Tensor, "b h m"]:
    """The labels of the nearest teacher tokens, averaged over the matches of each student token."""
    return torch.stack([gather(labels, ids) for ids in nearest.unbind(-1)]).mean(0)

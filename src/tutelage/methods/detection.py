"""Detection and instance segmentation: what lies where (Mask R-CNN on a ViT as in CAE, iBOT and PseudoMAE; methods 3.7).

The layer-wise decay of the learning rate and the steps it falls at are the optimizer's, size and crop the view's.
"""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from tutelage.batch import Annotation, Batch, Stream
from tutelage.clock import Clock
from tutelage.config import Count, NonNegative, Positive, Width
from tutelage.dense import KeptBuffers, Norm, features
from tutelage.detections import Found
from tutelage.encoder import patch_of
from tutelage.errors import DataError, SettingsError
from tutelage.method import Method, MethodSettings, Output
from tutelage.rcnn import (
    WEIGHTS,
    Maps,
    Pyramid,
    SimplePyramid,
    Stage,
    Stages,
    learning,
    proposer,
    targets_of,
)


class DetectionSettings(MethodSettings):
    """What finds objects on the encoder's maps."""

    name: Literal["detection"] = "detection"
    stages: Literal[1, 3] = 1
    """Mask R-CNN, or Cascade Mask R-CNN of three stages, each beginning from the boxes of the one before."""
    masks: bool = True
    """Learn the outline of each object beside its box."""
    pyramid: Literal["fpn", "simple"] = "fpn"
    """A feature pyramid over four blocks' maps, or ViTDet's: each scale by itself from the last block's, with layer norms."""
    channels: Width = 256
    """Width of pyramid and heads."""
    hidden: Width = 1024
    """Width of the layer before class and box."""
    norm: Norm = "batch"
    """Normalisation in the FPN's scales and in box heads: over the pictures of a pass (of all GPUs), as published, or of each
    cell over its channels."""
    anchor_scale: Positive = 8.0
    """Side of the square anchors in units of their map's stride."""
    proposals: Count = 1000
    """Boxes of a picture that are looked into; twice as many in training."""
    anchor_samples: Annotated[int, Field(ge=2, le=2**16)] = 256
    """Anchors of a picture that the proposing network learns from, at most half of them of objects."""
    samples: Annotated[int, Field(ge=4, le=2**16)] = 512
    """Boxes of a picture that a stage learns from, at most a quarter of them of objects."""
    box_loss: Literal["giou", "smooth_l1"] = "giou"
    """How far a box is off: generalised intersection over union, or by its corrections as in Faster R-CNN."""
    box_weight: NonNegative | None = None
    """Its weight; by default as published, 10 with giou and 1 with smooth_l1."""

    @property
    def streams(self) -> dict[str, Stream]:
        """One view of the pictures that have an object."""
        return {"train": Stream(views=("detect",), labels="known")}

    @property
    def annotation(self) -> Annotation:
        """What lies where."""
        return "objects"

    def check(self, grid: tuple[int, int], pictures: int) -> None:
        """Refuse pictures of a single row or column of patches. Raises SettingsError C-20."""
        if min(grid) < 2:
            raise SettingsError("C-20", f"detection needs 2 x 2 patches at least, not {grid[0]} x {grid[1]}.")

    def check_classes(self, data: str, shown: int) -> None:
        """Refuse training pictures without objects. Raises DataError D-45."""
        if shown == 0:
            raise DataError("D-45", f"the training pictures of {data} have no objects.")

    def build(self, vit: VisionTransformer, num_classes: int = 0) -> "Detection":
        """Heads for `num_classes` kinds of objects on an encoder, whose positions learn too. Raises SettingsError C-20."""
        return Detection(self, vit, num_classes)


class Detection(Method):
    """An encoder, a pyramid, a network that proposes boxes, and what looks into them, which learn together."""

    def __init__(self, settings: DetectionSettings, vit: VisionTransformer, num_classes: int) -> None:
        super().__init__()
        s = self.settings = settings
        self.student, width = vit, vit.embed_dim
        height, patch = patch_of(vit)
        if height != patch:
            raise SettingsError("C-20", f"detection needs square patches, not {height} x {patch}.")
        if vit.pos_embed is not None:
            vit.pos_embed.requires_grad_(True)
        vit.norm.requires_grad_(False)  # features are taken before it
        self.pyramid = Pyramid(width, s.channels, s.norm) if s.pyramid == "fpn" else SimplePyramid(width, s.channels)
        self.rpn = proposer(s.channels, patch, s.anchor_scale, s.proposals, s.anchor_samples)
        self.stages = Stages(
            Stage(
                s.channels,
                s.hidden,
                num_classes,
                patch,
                number=k,
                samples=s.samples,
                masks=s.masks,
                box_loss=s.box_loss,
                norm=s.norm,
            )
            for k in range(s.stages)
        )
        self._kept = KeptBuffers()

    def forward(self, batch: dict[str, Batch], clock: Clock) -> Output:
        """Faster R-CNN's losses of proposals and of boxes, and that of masks; a cascade's stages count 1, 1/2 and 1/4."""
        self._kept.keep(self, clock)
        (x,), s = batch["train"].views, self.settings
        targets = targets_of(batch["train"].objects, x.dtype)
        maps, sizes = self.maps(x), [(x.shape[-2], x.shape[-1])] * len(x)
        with learning(self.rpn):
            proposals, proposing = self.rpn(ImageList(x, sizes), maps, targets)
        parts = {"objectness": proposing["loss_objectness"], "proposal_box": proposing["loss_rpn_box_reg"]}
        loss = parts["objectness"] + parts["proposal_box"]
        box_weight = s.box_weight if s.box_weight is not None else {"giou": 10.0, "smooth_l1": 1.0}[s.box_loss]
        for k, losses in enumerate(self.stages.learn(maps, proposals, targets, sizes)):
            weighted = [part * (box_weight if name == "box" else 1.0) for name, part in losses.items()]
            loss = loss + WEIGHTS[k] * torch.stack(weighted).sum()
            parts |= {name if s.stages == 1 else f"{name}_{k + 1}": part for name, part in losses.items()}
        return Output(loss, parts, {})

    def after_step(self, clock: Clock) -> None:
        """A step that was skipped leaves no trace in the running statistics of the batch norms."""
        self._kept.settle(self, clock)

    def maps(self, x: Float[Tensor, "b c h w"]) -> Maps:
        """Five maps of the pictures, by name."""
        found: Maps = self.pyramid(features(self.student, x))
        return found

    def answers(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, " n"]:
        """What every layer says of pictures before anything is chosen, to compare copies by."""
        maps, sizes = self.maps(x), [(x.shape[-2], x.shape[-1])] * len(x)
        whole = [x.new_tensor([[0, 0, x.shape[-1], x.shape[-2]]])] * len(x)
        told = [*self.rpn.head(list(maps.values()))]
        found = [*told[0], *told[1]]
        for stage in self.stages:
            found += stage.ask(maps, whole, sizes)
            found += [stage.mask_logits(maps, whole, sizes)] if stage.has_mask() else []
        return torch.cat([answer.flatten() for answer in found])

    def find(self, x: Float[Tensor, "b c h w"], sizes: list[tuple[int, int]]) -> list[Found]:
        """What lies on pictures of the encoder's size, inside the (height, width) of each; in eval mode."""
        maps = self.maps(x)
        proposals, _ = self.rpn(ImageList(x, sizes), maps)
        return self.stages.find(maps, proposals, sizes)

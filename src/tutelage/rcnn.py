"""Mask R-CNN and Cascade Mask R-CNN of torchvision's parts: maps, proposals, boxes, masks (docs/methods/detection.md)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, clip_boxes_to_image, generalized_box_iou_loss
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import initLevelMapper

from tutelage.batch import Objects
from tutelage.dense import FourScales, Map, Norm, norm_of
from tutelage.detections import Found
from tutelage.precision import wide

STRIDES = (1 / 4, 1 / 2, 1.0, 2.0)
"""Of the four maps, in patches."""
RATIOS = (0.5, 1.0, 2.0)
"""Height over width of anchors."""
IOUS = (0.5, 0.6, 0.7)
"""Least overlap of a box with an object to be of it, in each stage of a cascade."""
WEIGHTS = (1.0, 0.5, 0.25)
"""Of the losses of each stage of a cascade."""
Maps = dict[str, Tensor]
"""[b, channels, rows, columns] of each scale, by name."""
Boxes = Float[Tensor, "n 4"]


class Pyramid(nn.Module):
    """Five maps of one width: torchvision's feature pyramid over the four scales, and a coarser one."""

    def __init__(self, width: int, channels: int, norm: Norm) -> None:
        super().__init__()
        self.scales = FourScales(width, norm)
        self.fpn = FeaturePyramidNetwork([width] * 4, channels, LastLevelMaxPool())

    def forward(self, blocks: list[Map]) -> Maps:
        """Maps [b, channels, rows, columns] by name, from those of four blocks."""
        return dict(self.fpn({str(i): x for i, x in enumerate(self.scales(blocks))}))


class SimplePyramid(nn.Module):
    """The same from the last block alone, each scale by itself (ViTDet: Li et al., ECCV 2022, arXiv:2203.16527, section 3)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        layer, half, quarter = norm_of("layer"), width // 2, width // 4
        up4 = nn.ConvTranspose2d(width, half, 2, 2), layer(half), nn.GELU(), nn.ConvTranspose2d(half, quarter, 2, 2)
        scales = [
            (up4, quarter),
            ((nn.ConvTranspose2d(width, half, 2, 2),), half),
            ((), width),
            ((nn.MaxPool2d(2),), width),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                *scale,
                nn.Conv2d(of, channels, 1, bias=False),
                layer(channels),
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                layer(channels),
            )
            for scale, of in scales
        )

    def forward(self, blocks: list[Map]) -> Maps:
        """Maps [b, channels, rows, columns] by name."""
        found = {str(i): level(blocks[-1]) for i, level in enumerate(self.levels)}
        return found | {"pool": F.max_pool2d(found["3"], 1, 2)}


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Boxes of one area and three proportions at each cell of each map; cells lie where patches of any size put them."""

    def __init__(self, patch: int, scale: float) -> None:
        self.strides = [patch * stride for stride in (*STRIDES, 2 * STRIDES[-1])]
        sides = tuple((scale * stride,) for stride in self.strides)
        super().__init__(sides, (RATIOS,) * len(sides))

    def generate_anchors(
        self,
        scales: tuple[float],
        aspect_ratios: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Those around one place, [ratios, 4]; torchvision's own are rounded, which small ones feel."""
        roots = torch.tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        width, height = scales[0] / roots, scales[0] * roots
        return torch.stack([-width, -height, width, height], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """The anchors of each picture."""
        device, dtype = feature_maps[0].device, torch.promote_types(feature_maps[0].dtype, torch.float32)
        self.set_cell_anchors(dtype, device)
        strides = [[torch.tensor(stride, dtype=dtype, device=device)] * 2 for stride in self.strides]
        found = self.grid_anchors([list(map_.shape[-2:]) for map_ in feature_maps], strides)
        return [torch.cat(found)] * len(image_list.image_sizes)


class ProposingHead(RPNHead):  # type: ignore[misc]
    """What each anchor is and how it lies; wide, because boxes are cast to what corrects them."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits and corrections of each map's anchors."""
        logits, deltas = super().forward(x)
        return [wide(each) for each in logits], [wide(each) for each in deltas]


def proposer(channels: int, patch: int, scale: float, proposals: int, samples: int) -> RegionProposalNetwork:
    """The network that proposes boxes (Faster R-CNN), with mmdetection's numbers; before NMS as many whatever is kept."""
    before, after = {"training": 2000, "testing": 1000}, {"training": 2 * proposals, "testing": proposals}
    anchors = Anchors(patch, scale)
    head = ProposingHead(channels, anchors.num_anchors_per_location()[0])
    return RegionProposalNetwork(anchors, head, 0.7, 0.3, samples, 0.5, before, after, 0.7)


class Pieces(MultiScaleRoIAlign):  # type: ignore[misc]
    """Pieces of the map that fits their size: of 14 patches from the third (224 px of 16; FPN, eq. 1), of 7 from the second.

    Scales are as the patch has them, where torchvision would take powers of 2. A piece lies where its box does, as
    mmdetection's and Detectron2's; torchvision's would lie half a cell of its map beside.
    """

    def __init__(self, side: int, patch: int) -> None:
        super().__init__([str(i) for i in range(len(STRIDES))], side, 0)
        self.scales = [1 / (patch * stride) for stride in STRIDES]
        self.map_levels = initLevelMapper(2, 5, canonical_scale=14 * patch, canonical_level=4)

    def forward(self, x: Maps, boxes: list[Boxes], image_shapes: list[tuple[int, int]]) -> Float[Tensor, "n c s s"]:
        """What each box of each picture holds."""
        all_boxes = torch.cat(boxes)
        half = 0.5 / all_boxes.new_tensor(self.scales)[self.map_levels(boxes)]
        moved = (all_boxes - half[:, None]).split([len(each) for each in boxes])
        found: Tensor = super().forward(x, list(moved), image_shapes)
        return found


class Stage(RoIHeads):  # type: ignore[misc]
    """What boxes are of and how they lie: four convolutions and a layer (4conv1fc), and four convolutions for masks."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        num_classes: int,
        patch: int,
        *,
        number: int,
        samples: int,
        masks: bool,
        box_loss: Literal["giou", "smooth_l1"],
        norm: Norm,
    ) -> None:
        spread = (10.0 * (number + 1),) * 2 + (5.0 * (number + 1),) * 2
        layer = norm_of(norm)
        super().__init__(
            Pieces(7, patch),
            FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [hidden], layer),
            _predictor(hidden, num_classes),
            IOUS[number], IOUS[number], samples, 0.25, spread,
            score_thresh=0.05, nms_thresh=0.5, detections_per_img=100,
        )  # fmt: skip
        if masks:
            self.mask_roi_pool = Pieces(14, patch)
            self.mask_head = MaskRCNNHeads(channels, [channels] * 4, 1)
            self.mask_predictor = MaskRCNNPredictor(channels, channels, num_classes + 1)
            _begin(self.mask_predictor.mask_fcn_logits, 0.001)
        self.box_loss = box_loss

    def learn(
        self, maps: Maps, proposals: list[Boxes], targets: list[dict[str, Tensor]], sizes: list[tuple[int, int]]
    ) -> tuple[dict[str, Tensor], list[Boxes]]:
        """Losses by name, and the boxes as this stage corrects them."""
        boxes, matched, labels, wanted = self.select_training_samples(proposals, targets)
        logits, deltas = self.ask(maps, boxes, sizes)
        truth = torch.cat(labels)
        losses = {
            "class": F.cross_entropy(wide(logits), truth),
            "box": self._box_loss(wide(deltas), torch.cat(boxes), torch.cat(wanted), truth),
        }
        if self.has_mask():
            positive = [label > 0 for label in labels]
            at = [box[is_object] for box, is_object in zip(boxes, positive, strict=True)]
            of = [i[is_object] for i, is_object in zip(matched, positive, strict=True)]
            true_masks, classes = [t["masks"] for t in targets], [t["labels"] for t in targets]
            # torchvision reads the mask half a pixel further than its pixels' middles lie.
            here = [box - 0.5 for box in at]
            losses["mask"] = maskrcnn_loss(wide(self.mask_logits(maps, at, sizes)), here, true_masks, classes, of)
        return losses, self.corrected(boxes, logits, deltas, sizes, truth)

    def ask(self, maps: Maps, boxes: list[Boxes], sizes: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Logits [n, classes + 1] of all boxes, the first that of ground, and corrections [n, 4 (classes + 1)]."""
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(maps, boxes, sizes)))
        return logits, deltas

    def mask_logits(self, maps: Maps, boxes: list[Boxes], sizes: list[tuple[int, int]]) -> Tensor:
        """Of 28 x 28 cells of each box, [n, classes + 1, 28, 28]."""
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(maps, boxes, sizes)))
        return logits

    @torch.no_grad()
    def corrected(
        self,
        boxes: list[Boxes],
        logits: Tensor,
        deltas: Tensor,
        sizes: list[tuple[int, int]],
        truth: Int[Tensor, " n"] | None = None,
    ) -> list[Boxes]:
        """Boxes moved as their class asks: the true one, where it is known to be an object, or else the likeliest."""
        classes = logits[:, 1:].argmax(1) + 1
        classes = classes if truth is None else torch.where(truth > 0, truth, classes)
        moved = self.box_coder.decode(wide(deltas), boxes)[torch.arange(len(classes), device=classes.device), classes]
        each = moved.split([len(b) for b in boxes])
        return [clip_boxes_to_image(one, size) for one, size in zip(each, sizes, strict=True)]

    def _box_loss(self, deltas: Tensor, boxes: Boxes, wanted: Boxes, truth: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Over boxes of objects, by the correction of their class; divided by the number of all boxes, as mmdetection's."""
        own = truth > 0
        told = deltas.view(len(truth), -1, 4)[own, truth[own]]
        if self.box_loss == "smooth_l1":
            loss = F.smooth_l1_loss(told, wanted[own], beta=1 / 9, reduction="sum")
        else:
            mine, true = (self.box_coder.decode_single(d, boxes[own]) for d in (told, wanted[own]))
            loss = generalized_box_iou_loss(mine, true, reduction="sum")
        return loss / max(1, len(truth))


class Stages(nn.ModuleList):
    """One stage (Mask R-CNN: He et al., ICCV 2017), or three, each of which corrects the boxes of the one before (Cascade:
    Cai and Vasconcelos, CVPR 2018).
    """

    def __iter__(self) -> Iterator[Stage]:
        return iter(self._modules.values())  # type: ignore[arg-type]

    def learn(
        self, maps: Maps, proposals: list[Boxes], targets: list[dict[str, Tensor]], sizes: list[tuple[int, int]]
    ) -> Iterator[dict[str, Tensor]]:
        """The losses of each stage by name."""
        for stage in self:
            losses, proposals = stage.learn(maps, proposals, targets, sizes)
            yield losses

    def find(self, maps: Maps, proposals: list[Boxes], sizes: list[tuple[int, int]]) -> list[Found]:
        """What lies on each picture: classes and masks by the mean of the stages, boxes by the last."""
        scores, stages = [], list(self)
        last = stages[-1]
        for stage in stages:
            logits, deltas = stage.ask(maps, proposals, sizes)
            scores.append(wide(logits))
            if stage is not last:
                proposals = stage.corrected(proposals, logits, deltas, sizes)
        mean = torch.stack(scores).mean(0)
        boxes, sureness, labels = last.postprocess_detections(mean, wide(deltas), proposals, sizes)
        if not last.has_mask():
            return [Found(b, c - 1, s, None) for b, c, s in zip(boxes, labels, sureness, strict=True)]
        drawn = [maskrcnn_inference(wide(stage.mask_logits(maps, boxes, sizes)), labels) for stage in self]
        masks = [torch.stack(each).mean(0)[:, 0] for each in zip(*drawn, strict=True)]
        return [Found(b, c - 1, s, m) for b, c, s, m in zip(boxes, labels, sureness, masks, strict=True)]


def targets_of(objects: Sequence[Objects], dtype: torch.dtype) -> list[dict[str, Any]]:
    """What torchvision's parts learn from: all but crowds, boxes in `dtype`, with class 0 for ground."""
    told = [Objects(*(each[~one.crowd] for each in one)) for one in objects]
    return [{"boxes": one.boxes.to(dtype), "labels": one.labels + 1, "masks": one.masks} for one in told]


@contextmanager
def learning(module: nn.Module) -> Iterator[None]:
    """Let one of torchvision's parts give losses, whatever state its layers are in."""
    before, module.training = module.training, True
    try:
        yield
    finally:
        module.training = before


def _predictor(hidden: int, num_classes: int) -> FastRCNNPredictor:
    """The last layer: nearly even classes, hardly a correction."""
    predictor = FastRCNNPredictor(hidden, num_classes + 1)
    _begin(predictor.cls_score, 0.01)
    _begin(predictor.bbox_pred, 0.001)
    return predictor


def _begin(layer: nn.Linear | nn.Conv2d, std: float) -> None:
    """With so small weights (Detectron2's) that it says next to nothing."""
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.get_parameter("bias"))

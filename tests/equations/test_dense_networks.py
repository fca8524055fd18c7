"""Adapter, UPerNet, pyramids and heads beside transcriptions of their figures, in NumPy and plain functions, on equal weights.

A transcription takes each tensor by its name; one that it does not take, as of a layer too many, is an error.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage import recipes
from tutelage.batch import Batch
from tutelage.clock import Clock, total_steps
from tutelage.data import joint
from tutelage.data.joint import DetectView, SegmentView
from tutelage.dense import FCNHead, FourScales, LinearHead, UPerHead, taps
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.methods.detection import Detection, DetectionSettings
from tutelage.methods.segmentation import SegmentationSettings
from tutelage.rcnn import IOUS, WEIGHTS, Pyramid, SimplePyramid
from tutelage.segmenter import _starts

START = Clock(4, 8, 10)
DOCS = Path(__file__).parents[2] / "docs/methods"


class Weights:
    """Tensors by name, of which each must be taken."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors = {name: tensor.detach().double() for name, tensor in module.state_dict().items()}
        self.left = {name for name in self.tensors if not name.endswith("num_batches_tracked")}

    def __call__(self, name: str) -> Tensor:
        self.left.discard(name)
        return self.tensors[name]

    def all_taken(self) -> None:
        assert not self.left


def scrambled(module: nn.Module) -> nn.Module:
    """With weights, offsets and statistics that are nowhere 0 or 1, in eval mode and float64."""
    random = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            fan = max(1, tensor[0].numel()) if tensor.dim() > 1 else 1
            drawn = torch.randn(tensor.shape, generator=random) / math.sqrt(fan)
            tensor.copy_(drawn.abs() + 0.5 if "var" in name else drawn + 0.3 if tensor.dim() == 1 else drawn)
    return module.eval().double()


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- in NumPy ---------------------------------------------------------------------------------------------------------


def along(x: Tensor, dim: int, matrix: np.ndarray) -> Tensor:
    """A matrix on one dimension of x."""
    return torch.from_numpy(np.moveaxis(np.tensordot(matrix, x.numpy(), (1, dim)), 0, dim))


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Each new pixel between the two old ones around its middle (corners not aligned)."""
    for dim, (new, old) in enumerate(zip(size, x.shape[2:], strict=True), start=2):
        matrix = np.zeros((new, old))
        for i in range(new):
            at = max(0.0, (i + 0.5) * old / new - 0.5)
            low = int(at)
            matrix[i, low] += 1 - (at - low)
            matrix[i, min(low + 1, old - 1)] += at - low
        x = along(x, dim, matrix)
    return x


def mean_pooled(x: Tensor, cells: int) -> Tensor:
    """The mean over each of cells x cells parts, whose borders are rounded outwards."""
    for dim in (2, 3):
        old, matrix = x.shape[dim], np.zeros((cells, x.shape[dim]))
        for i in range(cells):
            first, last = i * old // cells, math.ceil((i + 1) * old / cells)
            matrix[i, first:last] = 1 / (last - first)
        x = along(x, dim, matrix)
    return x


def up2(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of 2 x 2 with a stride of 2: each cell becomes four."""
    b, _, h, w = x.shape
    parts = np.einsum("bchw,couv->bohuwv", x.numpy(), weight.numpy())
    return torch.from_numpy(parts.reshape(b, -1, 2 * h, 2 * w)) + bias[:, None, None]


def normed(w: Weights, name: str, x: Tensor, norm: str) -> Tensor:
    scale, shift = w(f"{name}.weight")[:, None, None], w(f"{name}.bias")[:, None, None]
    if norm == "layer":
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt() * scale + shift
    mean, var = w(f"{name}.running_mean")[:, None, None], w(f"{name}.running_var")[:, None, None]
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def block(w: Weights, name: str, x: Tensor, norm: str, padding: int) -> Tensor:
    """Convolution without offset, norm, ReLU."""
    return normed(w, f"{name}.1", F.conv2d(x, w(f"{name}.0.weight"), padding=padding), norm).clamp(min=0)


def four_scales(w: Weights, maps: list[Tensor], norm: str) -> list[Tensor]:
    """BEiT's: x 4 by two transposed convolutions, a norm and GELU between, x 2 by one, x 1, x 1/2 by the largest of four."""
    first = normed(w, "up4.1", up2(maps[0], w("up4.0.weight"), w("up4.0.bias")), norm)
    first = first * (1 + torch.erf(first / math.sqrt(2))) / 2
    first = up2(first, w("up4.3.weight"), w("up4.3.bias"))
    second = up2(maps[1], w("up2.weight"), w("up2.bias"))
    last = torch.stack([maps[3][..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    return [first, second, maps[2], last]


def upernet(w: Weights, maps: list[Tensor], norm: str) -> Tensor:
    """Figure 4 of Xiao et al. (ECCV 2018), as mmsegmentation's UPerHead."""
    sizes = [(m.shape[2], m.shape[3]) for m in maps]
    pooled = [
        bilinear(block(w, f"pooled.{i}", mean_pooled(maps[3], cells), norm, 0), sizes[3])
        for i, cells in enumerate((1, 2, 3, 6))
    ]
    p4 = block(w, "bottleneck", torch.cat([maps[3], *pooled], 1), norm, 1)
    p3 = block(w, "lateral.2", maps[2], norm, 0) + bilinear(p4, sizes[2])
    p2 = block(w, "lateral.1", maps[1], norm, 0) + bilinear(p3, sizes[1])
    p1 = block(w, "lateral.0", maps[0], norm, 0) + bilinear(p2, sizes[0])
    smooth = [block(w, f"smooth.{i}", p, norm, 1) for i, p in enumerate((p1, p2, p3))]
    joined = torch.cat([bilinear(p, sizes[0]) for p in (*smooth, p4)], 1)
    return F.conv2d(block(w, "fuse", joined, norm, 1), w("classify.1.weight"), w("classify.1.bias"))


def fcn(w: Weights, x: Tensor, norm: str) -> Tensor:
    """One convolution of 3 x 3, and a class for each cell."""
    return F.conv2d(block(w, "0", x, norm, 1), w("2.weight"), w("2.bias"))


# --- the adapter and the decoders -------------------------------------------------------------------------------------


def some_maps(width: int = 6, sides: tuple[int, int] = (10, 14)) -> list[Tensor]:
    return [draw(2, width, *sides, seed=i) for i in range(4)]


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_the_four_scales_are_beits(norm: str) -> None:
    module, maps = scrambled(FourScales(6, norm)), some_maps()
    w = Weights(module)
    for found, expected in zip(module(maps), four_scales(w, maps, norm), strict=True):
        torch.testing.assert_close(found, expected)
    w.all_taken()


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_upernet_is_its_figure(norm: str) -> None:
    """On maps of 5 x 7 cells at the top, which none of 2, 3 and 6 divides."""
    module = scrambled(UPerHead(6, 8, 5, norm, 0.1))
    maps = [draw(2, 6, 5 * 2**k, 7 * 2**k, seed=k) for k in (3, 2, 1, 0)]
    w = Weights(module)
    torch.testing.assert_close(module(maps), upernet(w, maps, norm))
    w.all_taken()


def test_the_small_heads_are_a_convolution_and_a_layer() -> None:
    module, (x, *_) = scrambled(FCNHead(6, 8, 5, "batch", 0.1)), some_maps()
    w = Weights(module)
    torch.testing.assert_close(module(x), fcn(w, x, "batch"))
    w.all_taken()
    linear, maps = scrambled(LinearHead(6, 5, "batch")), some_maps()
    w = Weights(linear)
    one = normed(w, "norm", torch.cat(maps, 1), "batch")
    torch.testing.assert_close(linear(maps), F.conv2d(one, w("classify.weight"), w("classify.bias")))
    w.all_taken()


def vit(depth: int = 6, size: int = 40) -> nn.Module:
    settings = BackboneSettings(
        name="vit_tiny_patch16_224", image_size=size, patch_size=4, width=24, depth=depth, heads=2, positions="learned"
    )
    return build_vit(settings, 3)


def tapped(student: nn.Module, x: Tensor, after: tuple[int, ...]) -> list[Tensor]:
    """Patch tokens after these blocks, counted from 1, as maps; the class token is left out."""
    tokens, found = student._pos_embed(student.patch_embed(x)), []
    side = round(math.sqrt(tokens.shape[1] - 1))
    for number, transformer in enumerate(student.blocks, start=1):
        tokens = transformer(tokens)
        found += [tokens[:, 1:].transpose(1, 2).reshape(len(x), -1, side, side)] * after.count(number)
    return found


def cross_entropy(logits: Tensor, masks: Tensor) -> float:
    """Mean over the pixels that are not 255 of -log softmax, of logits brought to the mask's size."""
    at = bilinear(logits, (masks.shape[1], masks.shape[2])).numpy()
    log_p = at - np.log(np.exp(at).sum(1, keepdims=True))
    return float(-np.mean([log_p[b, masks[b, y, x], y, x] for b, y, x in np.argwhere(masks.numpy() != 255)]))


@torch.no_grad()
def test_both_losses_come_from_their_maps() -> None:
    """Of six blocks the maps are those after 2, 3, 4 and 6; the auxiliary head has the third, UPerNet's have the adapter's."""
    torch.manual_seed(0)
    settings = SegmentationSettings(channels=8, auxiliary_channels=4)
    method = settings.build(vit(), 3)
    for part in (method.scales, method.head, method.auxiliary):
        scrambled(part)
    method.eval().double()
    x = draw(2, 3, 40, 40)
    masks = torch.randint(0, 3, (2, 40, 40), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    masks[0, :9] = 255
    batch = Batch((x,), (), torch.zeros(2, dtype=torch.int64), torch.arange(2), masks=masks)
    found = method({"train": batch}, START)
    maps = tapped(method.student, x, (2, 3, 4, 6))
    auxiliary = cross_entropy(fcn(Weights(method.auxiliary), maps[2], "batch"), masks)
    logits = upernet(Weights(method.head), four_scales(Weights(method.scales), maps, "batch"), "batch")
    assert found.parts["auxiliary"].item() == pytest.approx(auxiliary)
    assert found.parts["cross_entropy"].item() == pytest.approx(cross_entropy(logits, masks))
    assert found.loss.item() == pytest.approx(cross_entropy(logits, masks) + 0.4 * auxiliary)


# --- pyramids and heads of detection ----------------------------------------------------------------------------------


def test_the_feature_pyramid_goes_from_coarse_to_fine() -> None:
    """Lin et al. (CVPR 2017), figure 3, of four scales: 1 x 1 and what is coarser, then 3 x 3; a fifth of every other cell."""
    module, blocks = scrambled(Pyramid(6, 8, "layer")), [draw(2, 6, 6, 8, seed=k) for k in range(4)]
    scales, w = Weights(module.scales), Weights(module.fpn)
    maps = four_scales(scales, blocks, "layer")
    side = [F.conv2d(x, w(f"inner_blocks.{i}.0.weight"), w(f"inner_blocks.{i}.0.bias")) for i, x in enumerate(maps)]
    for i in (2, 1, 0):
        side[i] = side[i] + side[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = [
        F.conv2d(x, w(f"layer_blocks.{i}.0.weight"), w(f"layer_blocks.{i}.0.bias"), padding=1)
        for i, x in enumerate(side)
    ]
    expected.append(expected[3][:, :, ::2, ::2])
    for found, one in zip(module(blocks).values(), expected, strict=True):
        torch.testing.assert_close(found, one)
    scales.all_taken(), w.all_taken()


def test_the_simple_pyramid_scales_the_last_block_and_norms_after_both_of_its_convolutions() -> None:
    """Li et al. (ECCV 2022) as Detectron2 builds it: halved on each way up, then 1 x 1, norm, 3 x 3, norm, of each alone."""
    module, blocks = scrambled(SimplePyramid(8, 6)), [draw(2, 8, 6, 8, seed=k) for k in range(4)]
    w, x = Weights(module), blocks[3]
    four = normed(w, "levels.0.1", up2(x, w("levels.0.0.weight"), w("levels.0.0.bias")), "layer")
    four = up2(four * (1 + torch.erf(four / math.sqrt(2))) / 2, w("levels.0.3.weight"), w("levels.0.3.bias"))
    two = up2(x, w("levels.1.0.weight"), w("levels.1.0.bias"))
    half = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]).amax(0)
    assert [scale.shape[1] for scale in (four, two)] == [2, 4]
    expected = []
    for level, first, scale in ((0, 4, four), (1, 1, two), (2, 0, x), (3, 1, half)):
        name = [f"levels.{level}.{first + k}" for k in range(4)]
        y = normed(w, name[1], F.conv2d(scale, w(f"{name[0]}.weight")), "layer")
        expected.append(normed(w, name[3], F.conv2d(y, w(f"{name[2]}.weight"), padding=1), "layer"))
    expected.append(expected[3][:, :, ::2, ::2])
    for found, one in zip(module(blocks).values(), expected, strict=True):
        torch.testing.assert_close(found, one)
    w.all_taken()


def detection(**changes: object) -> Detection:
    torch.manual_seed(0)
    settings = DetectionSettings(
        **{"channels": 6, "hidden": 9, "proposals": 20, "samples": 8, "anchor_samples": 8, **changes}
    )
    return settings.build(vit(depth=2), 3).double()


def test_the_box_head_is_four_convolutions_and_a_layer() -> None:
    """4conv1fc on 7 x 7 cells, class and correction of each class and of ground."""
    stage = detection().stages[0]
    scrambled(stage.box_head), scrambled(stage.box_predictor)
    w, x = Weights(stage.box_head), draw(5, 6, 7, 7)
    logits, deltas = stage.box_predictor(stage.box_head(x))
    for i in range(4):
        x = block(w, f"{i}", x, "batch", 1)
    x = F.linear(x.flatten(1), w("5.weight"), w("5.bias")).clamp(min=0)
    w.all_taken()
    w = Weights(stage.box_predictor)
    torch.testing.assert_close(logits, F.linear(x, w("cls_score.weight"), w("cls_score.bias")))
    torch.testing.assert_close(deltas, F.linear(x, w("bbox_pred.weight"), w("bbox_pred.bias")))
    w.all_taken()
    assert logits.shape == (5, 4) and deltas.shape == (5, 16)


def test_the_mask_head_is_four_convolutions_and_one_upwards_to_28_cells() -> None:
    """He et al. (ICCV 2017), figure 4, right: 14 x 14, four of 3 x 3, one transposed, a mask for each class and for ground."""
    stage = detection().stages[0]
    scrambled(stage.mask_head), scrambled(stage.mask_predictor)
    w, p, x = Weights(stage.mask_head), Weights(stage.mask_predictor), draw(5, 6, 14, 14)
    found = stage.mask_predictor(stage.mask_head(x))
    for i in range(4):
        x = F.conv2d(x, w(f"{i}.0.weight"), w(f"{i}.0.bias"), padding=1).clamp(min=0)
    x = up2(x, p("conv5_mask.weight"), p("conv5_mask.bias")).clamp(min=0)
    torch.testing.assert_close(found, F.conv2d(x, p("mask_fcn_logits.weight"), p("mask_fcn_logits.bias")))
    w.all_taken(), p.all_taken()
    assert found.shape == (5, 4, 28, 28)


@torch.no_grad()
def test_pieces_go_through_those_heads_at_those_sizes() -> None:
    method = detection().eval()
    maps, sizes = method.maps(draw(1, 3, 40, 40)), [(40, 40)]
    boxes = [torch.tensor([[0.0, 0, 30, 20], [5, 5, 39, 39]], dtype=torch.float64)]
    stage = method.stages[0]
    small, large = stage.box_roi_pool(maps, boxes, sizes), stage.mask_roi_pool(maps, boxes, sizes)
    assert small.shape[1:] == (6, 7, 7) and large.shape[1:] == (6, 14, 14)
    torch.testing.assert_close(stage.ask(maps, boxes, sizes)[0], stage.box_predictor(stage.box_head(small))[0])
    torch.testing.assert_close(stage.mask_logits(maps, boxes, sizes), stage.mask_predictor(stage.mask_head(large)))


# --- the published numbers --------------------------------------------------------------------------------------------


def built(name: str):
    """A recipe and its method at full size, without memory."""
    recipe = recipes.load(name)
    with torch.device("meta"):
        return recipe, recipe.method.build(build_vit(recipe.backbone, 3), 80)


def of_segmentation() -> Iterator[tuple[str, object, object]]:
    """What the page says, what is built, what was published (BEiT's and SdAE's code; PseudoMAE, appendix and Table 4)."""
    recipe, method = built("segment-vitb16-ade20k")
    optim, view = recipe.optim, recipe.views.segment
    assert isinstance(view, SegmentView)
    yield "3, 5, 7, 11 of 12 from 0", taps(12), (3, 5, 7, 11)
    yield "a third, half, two thirds and all", taps(24), (7, 11, 15, 23)
    yield "two transposed convolutions", [type(m).__name__ for m in method.scales.up4], [
        "ConvTranspose2d", "BatchNorm2d", "GELU", "ConvTranspose2d",
    ]  # fmt: skip
    yield "pooling to 1, 2, 3, 6 cells", len(method.head.pooled), 4
    yield "four maps joined", method.head.fuse[0].weight.shape, (768, 4 * 768, 3, 3)
    yield "one convolution of 256 channels on the third map", method.auxiliary[0][0].weight.shape, (256, 768, 3, 3)
    yield "its loss at 0.4", recipe.method.auxiliary_weight, 0.4
    yield "dropout of 0.1", (method.head.classify[0].p, method.auxiliary[1].p), (0.1, 0.1)
    yield "50 to 200 %", view.scale, (0.5, 2.0)
    yield "more than 75 %", view.most_of_one, 0.75
    yield "flip, colours", (view.flip, view.distort), (0.5, 0.5)
    yield "windows two thirds of it apart", _starts(512 + 341, 512), [0, 341]
    steps = total_steps(20_210, recipe.batch_size, recipe.epochs)
    yield "160,000 steps", (steps, recipe.batch_size, recipe.backbone.size), (160_000, 16, (512, 512))
    rate = optim.base_lr * recipe.batch_size / 256
    yield "layer decay 0.65, 4e-4", (optim.layer_decay, pytest.approx(rate)), (0.65, 4e-4)
    yield "W = 1,500", round(optim.warmup_epochs * 20_210 / 16), 1500
    yield "(1 - t/T)", (optim.schedule, optim.betas, optim.weight_decay), ("poly", (0.9, 0.999), 0.05)


def of_detection() -> Iterator[tuple[str, object, object]]:
    """The same (CAE's code; iBOT's for the cascade)."""
    recipe, method = built("detect-vitb16-coco")
    stage, rpn, optim, view = method.stages[0], method.rpn, recipe.optim, recipe.views.detect
    assert isinstance(view, DetectView)
    yield "256 channels, from coarse to fine", method.pyramid.fpn.layer_blocks[0][0].weight.shape, (256, 256, 3, 3)
    strides = rpn.anchor_generator.strides
    yield (
        "a square of side 8 s",
        [scale[0] / s for scale, s in zip(rpn.anchor_generator.sizes, strides, strict=True)],
        [8] * 5,
    )
    yield "at each cell of stride s", strides, [4, 8, 16, 32, 64]
    yield "1 : 2 and 2 : 1", rpn.anchor_generator.aspect_ratios, ((0.5, 1.0, 2.0),) * 5
    matcher = rpn.proposal_matcher
    yield "from IoU 0.7 on, of none below 0.3", (matcher.high_threshold, matcher.low_threshold), (0.7, 0.3)
    sampler = rpn.fg_bg_sampler
    yield "256 a picture, half of objects", (sampler.batch_size_per_image, sampler.positive_fraction), (256, 0.5)
    most = {"training": 2000, "testing": 1000}
    kept = (rpn.nms_thresh, rpn._pre_nms_top_n, rpn._post_nms_top_n)
    yield "the surest 2,000 (1,000 after training), NMS 0.7, as many kept", kept, (0.7, most, most)
    sampler, overlap = stage.fg_bg_sampler, stage.proposal_matcher.high_threshold
    drawn = (sampler.batch_size_per_image, sampler.positive_fraction, overlap)
    yield "512 a picture, a quarter of objects (IoU 0.5)", drawn, (512, 0.25, 0.5)
    yield "7 x 7 cells, four convolutions, a layer of 1,024", stage.box_head[5].weight.shape, (1024, 256 * 7 * 7)
    yield "times 10", (recipe.method.box_loss, recipe.method.box_weight), ("giou", None)
    yield (
        "14 x 14 cells, four convolutions, one upwards",
        (stage.mask_roi_pool.output_size, len(stage.mask_head)),
        ((14, 14), 4),
    )
    told = (stage.score_thresh, stage.nms_thresh, stage.detections_per_img)
    yield "score above 0.05, NMS 0.5, at most 100", told, (0.05, 0.5, 100)
    yield "from 480 to 800 by 32", view.short, (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    detr = (view.crop, joint._DETR_SIDES, joint._DETR_CROP)
    yield "for half of the pictures after DETR's crop, flip", detr, (0.5, (400, 500, 600), (384, 600))
    yield "from epoch 9 and again from 11 of 12", (optim.drops, recipe.epochs, recipe.batch_size), ((9, 11), 12, 32)
    yield "in the first 500 steps", round(optim.warmup_epochs * 117_266 / 32), 500
    rates = (pytest.approx(optim.base_lr * 32 / 256), optim.layer_decay, recipe.backbone.drop_path)
    yield "detect-vitb16-coco", rates, (3e-4, 0.75, 0.2)
    cascade, stages = built("detect-vitb16-coco-cascade")
    units = [each.box_coder.weights for each in stages.stages]
    yield "corrections in units of 1/10, 1/20, 1/30", units, [(10.0 * k, 10.0 * k, 5.0 * k, 5.0 * k) for k in (1, 2, 3)]
    yield "three stages at IoU 0.5, 0.6, 0.7", (IOUS, len(stages.stages)), ((0.5, 0.6, 0.7), 3)
    yield "losses times 1, 1/2, 1/4", WEIGHTS, (1.0, 0.5, 0.25)
    rate = (pytest.approx(cascade.optim.base_lr * 16 / 256), cascade.batch_size, cascade.optim.drops)
    yield "detect-vitb16-coco-cascade", rate, (1e-4, 16, (8, 11))


@pytest.mark.parametrize(("page", "rows"), [("segmentation", of_segmentation), ("detection", of_detection)])
def test_what_is_built_has_the_published_numbers_as_the_page_quotes_them(
    page: str, rows: Callable[[], Iterator[tuple[str, object, object]]]
) -> None:
    text = " ".join((DOCS / f"{page}.md").read_text().split())
    for quoted, found, expected in rows():
        assert quoted in text, quoted
        assert found == expected, quoted

"""Detection: the measure (oracle 66), views with their boxes, anchors and pieces of maps, losses, cascades, whole pictures."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from tutelage.average_precision import FoundObjects, run_lengths
from tutelage.batch import Batch, Objects
from tutelage.clock import Clock
from tutelage.data.joint import DetectView, fitted, framed
from tutelage.data.order import Draws
from tutelage.dense import features
from tutelage.detections import Found
from tutelage.detector import find
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.errors import SettingsError
from tutelage.methods.detection import Detection, DetectionSettings
from tutelage.rcnn import Stage, targets_of

START = Clock(4, 8, 10)
SIZE = (64, 64)


def objects(
    boxes: list[list[float]], size: tuple[int, int] = SIZE, labels: list[int] | None = None, crowd=()
) -> Objects:
    """Objects that fill their boxes."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)] = True
    classes = torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64)
    crowds = torch.tensor([i in crowd for i in range(len(boxes))], dtype=torch.bool)
    return Objects(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), classes, crowds, masks)


def found(boxes: list[list[float]], labels: list[int] | None = None, scores: list[float] | None = None) -> Found:
    """Found boxes, whose masks fill them."""
    classes = torch.tensor(labels if labels is not None else [0] * len(boxes), dtype=torch.int64)
    sure = torch.tensor(scores if scores is not None else [0.9] * len(boxes))
    return Found(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), classes, sure, torch.ones(len(boxes), 28, 28))


# --- the measure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", ["bbox", "segm"])
def test_what_is_found_as_it_lies_is_1_and_nothing_found_is_0(of: str) -> None:
    perfect, empty = (FoundObjects(("a", "b"), masks=True) for _ in range(2))
    truth = objects([[8, 8, 40, 48], [30, 4, 60, 20]], labels=[0, 1])
    perfect.add(truth, found([[8, 8, 40, 48], [30, 4, 60, 20]], [0, 1]), SIZE)
    empty.add(truth, found([]), SIZE)
    assert perfect.precision(of).ap == pytest.approx(1.0) and perfect.precision(of).by_class == pytest.approx(
        {"a": 1, "b": 1}
    )
    assert empty.precision(of).ap == 0.0 and empty.precision(of).by_class == {"a": 0.0, "b": 0.0}


def test_a_box_of_overlap_072_passes_five_of_ten_thresholds() -> None:
    """Oracle 66: .50 to .70 are passed, .75 to .95 are not."""
    gathered = FoundObjects(("a",), masks=False)
    gathered.add(objects([[0, 0, 50, 10]], (64, 64)), found([[0, 0, 36, 10]]), SIZE)
    told = gathered.precision("bbox")
    assert told.ap == pytest.approx(0.5) and told.ap50 == pytest.approx(1.0) and told.ap75 == 0.0


def test_a_wrong_one_that_is_surer_costs_half_and_a_crowd_costs_nothing() -> None:
    truth, right, wrong = [[0.0, 0, 20, 20]], [0.0, 0, 20, 20], [40.0, 40, 60, 60]
    plain, crowded = (FoundObjects(("a",), masks=False) for _ in range(2))
    plain.add(objects(truth), found([right, wrong], scores=[0.5, 0.9]), SIZE)
    assert plain.precision("bbox").ap == pytest.approx(0.5), "of the two up to full recall one is right"
    crowded.add(objects([*truth, [38, 38, 64, 64]], crowd=[1]), found([right, wrong], scores=[0.5, 0.9]), SIZE)
    assert crowded.precision("bbox").ap == pytest.approx(1.0)


def test_masks_have_the_size_of_masks() -> None:
    """A found mask without a partner counts among those of its own size, not of its box's."""
    gathered = FoundObjects(("a",), masks=True)
    small, sides = [10.0, 10, 30, 30], (200, 200)
    gathered.add(objects([small], sides), found([small, [50, 50, 190, 190]], scores=[0.5, 0.9]), sides)
    thin = gathered.found[1]
    thin["segmentation"] = gathered.found[0]["segmentation"] | {"counts": run_lengths(stripe(sides))["counts"]}
    assert gathered.precision("segm").small == pytest.approx(0.5), "the stripe is small, surer and wrong"
    assert gathered.precision("bbox").small == pytest.approx(1.0), "its box is large"


def stripe(sides: tuple[int, int]) -> Tensor:
    mask = torch.zeros(sides, dtype=torch.bool)
    mask[100:102, 50:190] = True
    return mask


def test_of_nothing_found_every_size_that_is_there_is_0() -> None:
    gathered = FoundObjects(("a",), masks=False)
    gathered.add(objects([[0, 0, 10, 10]]), found([]), SIZE)
    told = gathered.precision("bbox")
    assert told.small == 0.0 and math.isnan(told.large)


def test_classes_count_alike_and_a_class_without_objects_does_not_count() -> None:
    gathered = FoundObjects(("many", "one", "none"), masks=False)
    for _ in range(9):
        gathered.add(objects([[0, 0, 20, 20]]), found([[0.0, 0, 20, 20]]), SIZE)
    gathered.add(objects([[0, 0, 20, 20]], labels=[1]), found([]), SIZE)
    told = gathered.precision("bbox")
    assert told.ap == pytest.approx(0.5)
    assert (
        told.by_class["many"] == pytest.approx(1.0)
        and told.by_class["one"] == 0.0
        and math.isnan(told.by_class["none"])
    )


def test_sizes_are_those_of_outlines() -> None:
    gathered = FoundObjects(("a",), masks=False)
    thin = objects([[0, 0, 60, 60]])
    thin.masks[:] = False
    thin.masks[0, 0] = True
    gathered.add(thin, found([[0.0, 0, 60, 60]]), SIZE)
    told = gathered.precision("bbox")
    assert told.small == pytest.approx(1.0) and math.isnan(told.medium)


# --- views ------------------------------------------------------------------------------------------------------------


def ramp(height: int, width: int) -> Tensor:
    """A picture whose colour tells where each pixel was."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)])


@pytest.mark.parametrize(
    "view", [DetectView(scale=(0.3, 2.0)), DetectView(short=(24, 40)), DetectView(short=(40,), crop=1.0)]
)
def test_boxes_and_masks_move_as_pixels_do(view: DetectView) -> None:
    """The colours under a box and a mask of the view are those that were under them before."""
    kept = 0
    for seed in range(30):
        before = objects([[10, 12, 34, 30], [50, 30, 58, 47]], (48, 80))
        picture, after = view(ramp(48, 80), before, SIZE, Draws(seed))
        assert picture.shape == (3, *SIZE) and after.masks.shape[1:] == SIZE
        for box, label, mask in zip(after.boxes, after.labels, after.masks, strict=True):
            x0, y0, x1, y1 = box.tolist()
            assert 0 <= x0 <= x1 - 1 <= SIZE[1] - 1 and 0 <= y0 <= y1 - 1 <= SIZE[0] - 1
            ys, xs = mask.nonzero().unbind(1)
            if len(ys) < 9:
                continue
            kept += 1
            assert abs(xs.min() - x0) <= 1.5 and abs(xs.max() + 1 - x1) <= 1.5
            assert abs(ys.min() - y0) <= 1.5 and abs(ys.max() + 1 - y1) <= 1.5
            under = picture[:, ys, xs]
            assert label == 0
            left, right = under[0].min() * 80, under[0].max() * 80
            top, bottom = under[1].min() * 48, under[1].max() * 48
            inside = [(10, 12, 34, 30), (50, 30, 58, 47)]
            assert any(
                left >= a - 4 and top >= b - 4 and right <= c + 4 and bottom <= d + 4 for a, b, c, d in inside
            ), (left, top, right, bottom)
    assert kept > 20


def test_a_view_is_a_function_of_its_draws_and_flips_half_of_the_time() -> None:
    view, before = DetectView(scale=(1.0, 1.0)), objects([[0, 0, 16, 16]])
    a, b = (view(ramp(64, 64), before, SIZE, Draws(3)) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1].boxes, b[1].boxes)
    lefts = [view(ramp(64, 64), before, SIZE, Draws(seed))[1].boxes[0, 0].item() for seed in range(200)]
    assert set(lefts) == {0.0, 48.0} and 70 < lefts.count(48.0) < 130


def test_objects_of_which_less_than_a_pixel_is_left_are_gone() -> None:
    view, counts = DetectView(scale=(3.0, 3.0), flip=0.0), []
    for seed in range(40):
        _, after = view(ramp(64, 64), objects([[0, 0, 6, 6], [58, 58, 64, 64]]), SIZE, Draws(seed))
        counts.append(len(after.boxes))
        assert all(len(each) == len(after.boxes) for each in after)
    assert set(counts) == {0, 1}


@pytest.mark.parametrize(
    ("sides", "short", "expected"),
    [((480, 640), 800, (800, 1067)), ((480, 1280), 800, (500, 1333)), ((100, 50), None, (1333, 666))],
)
def test_whole_pictures_are_resized_as_published(sides, short, expected) -> None:
    """(800, 1333): the short side 800, unless the long one would then be more than 1333."""
    assert fitted(sides, (1333, 1333), short) == pytest.approx(expected, abs=1)


def test_a_crop_without_short_sides_is_refused() -> None:
    with pytest.raises(ValueError, match="goes before a size of short"):
        DetectView(crop=0.5)


# --- parts ------------------------------------------------------------------------------------------------------------


def vit(patch: int = 8, size: int | tuple[int, int] = 64):
    torch.manual_seed(0)
    return build_vit(
        BackboneSettings(
            name="vit_tiny_patch16_224",
            image_size=size,
            patch_size=patch,
            width=24,
            depth=4,
            heads=2,
            positions="learned",
        ),
        3,
    )


def detection(patch: int = 8, size: int = 64, **changes: object) -> Detection:
    model = vit(patch, size)
    small = {"channels": 16, "hidden": 32, "proposals": 40, "samples": 16, "anchor_samples": 32}
    return DetectionSettings(**{**small, **changes}).build(model, 3)


@pytest.mark.parametrize("patch", [8, 12, 16])
def test_anchors_lie_around_the_corners_of_cells(patch: int) -> None:
    """As mmdetection's (center_offset 0): at each cell of stride s a square of side 8 s, and two of its area."""
    method = detection(patch, 96).eval()
    x = torch.zeros(1, 3, 96, 96)
    maps = method.maps(x)
    (anchors,) = method.rpn.anchor_generator(type("Images", (), {"image_sizes": [(96, 96)]})(), list(maps.values()))
    rows = 0
    for stride, map_ in zip((patch / 4, patch / 2, patch, 2 * patch, 4 * patch), maps.values(), strict=True):
        h, w = map_.shape[-2:]
        own = anchors[rows : rows + 3 * h * w].view(h, w, 3, 4)
        rows += 3 * h * w
        middles = (own[..., :2] + own[..., 2:]) / 2
        expected = torch.stack(torch.meshgrid(torch.arange(h) * stride, torch.arange(w) * stride, indexing="ij"), -1)
        torch.testing.assert_close(middles, expected.flip(-1)[:, :, None].expand_as(middles).float(), atol=1e-4, rtol=0)
        sides = (own[..., 2:] - own[..., :2])[0, 0]
        expected_sides = [[8 * stride / math.sqrt(r), 8 * stride * math.sqrt(r)] for r in (0.5, 1.0, 2.0)]
        np.testing.assert_allclose(sides, expected_sides, rtol=1e-5)
    assert rows == len(anchors)


@pytest.mark.parametrize("patch", [8, 12])
def test_pieces_of_maps_are_cut_where_the_box_is(patch: int) -> None:
    """A map that tells its own place, in pixels, gives the places of the box, whatever the patch."""
    side, stage = 8 * patch, detection(patch, 8 * patch).stages[0]
    maps = {}
    for i, stride in enumerate((patch / 4, patch / 2, patch, 2 * patch)):
        middles = (torch.arange(round(side / stride)) + 0.5) * stride
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        maps[str(i)] = torch.stack([x, y])[None]
    box = torch.tensor([[1.6 * patch, 2.1 * patch, 5.7 * patch, 6.2 * patch]])
    piece = stage.box_roi_pool(maps, [box], [(side, side)])[0]
    x0, y0, x1, y1 = box[0].tolist()
    expected_x = x0 + (torch.arange(7) + 0.5) * (x1 - x0) / 7
    expected_y = y0 + (torch.arange(7) + 0.5) * (y1 - y0) / 7
    torch.testing.assert_close(piece[0, 3], expected_x)
    torch.testing.assert_close(piece[1, :, 3], expected_y)


@pytest.mark.parametrize("patch", [8, 12])
def test_pieces_are_cut_from_the_map_that_fits_their_size(patch: int) -> None:
    """FPN, eq. 1, in patches: the finest map below 7, the second below 14, the third below 28, then the fourth."""
    side, stage = 40 * patch, detection(patch, 8 * patch).stages[0]
    maps = {str(i): torch.full((1, 1, 8, 8), float(i)) for i in range(4)}
    boxes = torch.tensor([[0, 0, n * patch, n * patch] for n in (3.0, 6.9, 7.1, 13.9, 14.1, 27.9, 28.1)])
    found = stage.box_roi_pool(maps, [boxes], [(side, side)])
    assert found[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("pyramid", ["fpn", "simple"])
def test_five_maps_have_the_shapes_of_the_table(pyramid: str) -> None:
    method, x = detection(pyramid=pyramid).eval(), torch.randn(2, 3, 64, 64)
    maps = method.maps(x)
    assert [tuple(m.shape) for m in maps.values()] == [(2, 16, side, side) for side in (32, 16, 8, 4, 2)]
    for name, map_ in method.pyramid(features(method.student, x)).items():
        assert torch.equal(map_, maps[name])
    torch.testing.assert_close(maps["pool"], maps["3"][:, :, ::2, ::2])


# --- losses -----------------------------------------------------------------------------------------------------------


def data(count: int = 4) -> dict[str, Batch]:
    random = torch.Generator().manual_seed(1)
    told = [objects([[8, 8, 40, 40], [30, 30, 60, 56]][: i % 3], labels=[0, 2][: i % 3]) for i in range(count)]
    x = torch.randn(count, 3, *SIZE, generator=random)
    return {"train": Batch((x,), (), torch.zeros(count).long(), torch.arange(count), objects=tuple(told))}


def giou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the share of the box around both that neither takes (Rezatofighi et al., CVPR 2019), of pairs."""
    area_a, area_b = ((x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b))
    inner = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    outer = (torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])).prod(1)
    union = area_a + area_b - inner
    return inner / union - (outer - union) / outer


@pytest.mark.parametrize("kind", ["giou", "smooth_l1"])
def test_the_box_loss_is_that_of_the_corrections_of_the_own_class(kind: str) -> None:
    stage = detection(box_loss=kind).stages[0]
    random = torch.Generator().manual_seed(2)
    boxes = torch.tensor([[4.0, 4, 30, 28], [10, 20, 40, 60], [0, 0, 9, 9]])
    true = torch.tensor([[6.0, 2, 33, 30], [12, 18, 44, 55], [0, 0, 64, 64]])
    truth, deltas = torch.tensor([3, 1, 0]), torch.randn(3, 16, generator=random) / 4
    wanted = stage.box_coder.encode_single(true, boxes)
    own = deltas.view(3, 4, 4)[torch.arange(2), truth[:2]]
    w, h = (boxes[:2, 2] - boxes[:2, 0]), (boxes[:2, 3] - boxes[:2, 1])
    x, y = boxes[:2, 0] + w / 2 + own[:, 0] / 10 * w, boxes[:2, 1] + h / 2 + own[:, 1] / 10 * h
    w, h = w * torch.exp(own[:, 2] / 5), h * torch.exp(own[:, 3] / 5)
    mine = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1)
    if kind == "giou":
        expected = (1 - giou(mine, true[:2])).sum() / 3
    else:
        off = (own - wanted[:2]).abs()
        expected = torch.where(off < 1 / 9, off**2 * 9 / 2, off - 1 / 18).sum() / 3
    torch.testing.assert_close(stage._box_loss(deltas, boxes, wanted, truth), expected)


def test_the_losses_add_up_with_their_weights_and_reach_every_layer() -> None:
    for stages in (1, 3):
        method = detection(stages=stages, box_weight=7.0)
        torch.manual_seed(5)
        output = method(data(), START)
        parts = {name: part.item() for name, part in output.parts.items()}
        ends = [""] if stages == 1 else ["_1", "_2", "_3"]
        weights = (1.0, 0.5, 0.25)
        expected = parts["objectness"] + parts["proposal_box"]
        for end, weight in zip(ends, weights, strict=False):
            expected += weight * (parts[f"class{end}"] + 7 * parts[f"box{end}"] + parts[f"mask{end}"])
        assert output.loss.item() == pytest.approx(expected, rel=1e-5)
        output.loss.backward()
        assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_the_losses_are_those_of_torchvisions_mask_rcnn() -> None:
    """Of its own networks, with the numbers of the table and the same weights, by the same draws."""
    method = detection(box_loss="smooth_l1").eval()
    batch = data()
    targets = targets_of(batch["train"].objects, torch.float32)
    torch.manual_seed(3)
    mine = method(batch, START).parts
    x = batch["train"].views[0]
    maps, sizes = method.maps(x), [SIZE] * 4
    head = RPNHead(16, 3)
    head.load_state_dict(method.rpn.head.state_dict())
    before, after = {"training": 2000, "testing": 1000}, {"training": 80, "testing": 40}
    rpn = RegionProposalNetwork(method.rpn.anchor_generator, head, 0.7, 0.3, 32, 0.5, before, after, 0.7)
    stage = method.stages[0]
    boxes = RoIHeads(
        stage.box_roi_pool, stage.box_head, stage.box_predictor, 0.5, 0.5, 16, 0.25, None, 0.05, 0.5, 100,
        stage.mask_roi_pool, stage.mask_head, stage.mask_predictor,
    )  # fmt: skip
    rpn.training = boxes.training = True
    torch.manual_seed(3)
    proposals, first = rpn(ImageList(x, sizes), maps, targets)
    _, second = boxes(maps, proposals, sizes, targets)
    theirs = {**first, **second}
    names = {
        "objectness": "loss_objectness", "proposal_box": "loss_rpn_box_reg", "class": "loss_classifier",
        "box": "loss_box_reg", "mask": "loss_mask",
    }  # fmt: skip
    for name, other in names.items():
        assert mine[name] > 0
        if name != "mask":  # of which torchvision's targets lie half a pixel beside
            torch.testing.assert_close(mine[name], theirs[other])
    torch.testing.assert_close(mine["mask"], theirs["loss_mask"], rtol=0.02, atol=0)


def test_masks_are_learned_where_they_are_pasted() -> None:
    """The cells that a mask is learned as, pasted as a probability, are the mask."""
    truth = objects([[10, 20, 38, 48]])
    truth.masks[0, 20:48, 10:31] = False
    cells = project_masks_on_boxes(truth.masks, truth.boxes - 0.5, torch.tensor([0]), 28)
    pasted = Found(truth.boxes, truth.labels, torch.ones(1), cells).pixels(SIZE)
    assert torch.equal(pasted, truth.masks)


def test_boxes_are_as_exact_in_bfloat16_and_in_float64() -> None:
    """At 1,000 px bfloat16 tells places four pixels apart."""
    method, x = detection(16, 1024), torch.randn(1, 3, 1024, 1024)
    maps = [torch.zeros(1, 16, side, side, dtype=torch.bfloat16) for side in (256, 128, 64, 32, 16)]
    (anchors,) = method.rpn.anchor_generator(type("Images", (), {"image_sizes": [(1024, 1024)]})(), maps)
    assert anchors.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        method.eval()
        (proposals,), _ = method.rpn(ImageList(x, [(1024, 1024)]), {str(i): m.float() for i, m in enumerate(maps)})
    assert proposals.dtype == torch.float32 and (proposals % 4 != 0).any()
    with torch.autocast("cpu", torch.bfloat16):
        output = detection()(data(), START)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    exact = detection().double()
    batch = {name: replace(part, views=tuple(v.double() for v in part.views)) for name, part in data().items()}
    output = exact(batch, START)
    assert output.loss.dtype == torch.float64
    output.loss.backward()


def test_crowds_are_not_learned_from_and_classes_make_room_for_ground() -> None:
    (told,) = targets_of([objects([[0, 0, 9, 9], [0, 0, 60, 60]], labels=[2, 1], crowd=[1])], torch.float64)
    assert told["labels"].tolist() == [3] and told["boxes"].tolist() == [[0, 0, 9, 9]] and len(told["masks"]) == 1


def test_pictures_whose_objects_were_all_cut_off_can_be_learned_from() -> None:
    empty = {"train": replace(data()["train"], objects=tuple(objects([]) for _ in range(4)))}
    output = detection()(empty, START)
    assert output.loss.isfinite() and output.parts["box"] == 0 and output.parts["mask"] == 0 < output.parts["class"]


def test_a_held_out_step_gives_losses_and_leaves_every_layer_in_eval_mode() -> None:
    method = detection().eval()
    before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    assert set(method(data(), START).parts) == {"objectness", "proposal_box", "class", "box", "mask"}
    assert not any(module.training for module in method.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.state_dict().items())


def test_a_skipped_step_leaves_no_trace_in_running_statistics() -> None:
    method = detection()
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    method(data(), START)
    assert any(not torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())
    method.after_step(START.tick(applied=False))
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())


# --- cascades ---------------------------------------------------------------------------------------------------------


def test_each_stage_begins_from_the_boxes_of_the_one_before_with_a_stricter_overlap() -> None:
    method, seen = detection(stages=3), []
    for stage in method.stages:

        def spy(proposals, targets, stage: Stage = stage):
            seen.append([p.clone() for p in proposals])
            return type(stage).select_training_samples(stage, proposals, targets)

        stage.select_training_samples = spy
    torch.manual_seed(0)
    method(data(), START)
    assert [stage.proposal_matcher.high_threshold for stage in method.stages] == [0.5, 0.6, 0.7]
    assert [stage.box_coder.weights for stage in method.stages] == [(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]
    assert len(seen) == 3 and all(len(a) == 16 for stage in seen[1:] for a in stage)
    assert not torch.equal(seen[1][0], seen[2][0])


def test_boxes_are_corrected_by_their_own_class() -> None:
    stage = detection().stages[0]
    boxes = [torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([[10.0, 10, 30, 30]])]
    deltas = torch.zeros(2, 4, 4)
    deltas[:, 1, 0], deltas[:, 2, 1] = 5.0, 5.0  # class 1 goes half a width right, class 2 half a height down
    logits = torch.tensor([[9.0, 1.0, 0.0, 0.0], [9.0, 1.0, 0.0, 0.0]])
    likeliest = stage.corrected(boxes, logits, deltas.flatten(1), [SIZE] * 2)
    known = stage.corrected(boxes, logits, deltas.flatten(1), [SIZE] * 2, torch.tensor([2, 0]))
    right, down = [[20.0, 10.0, 40.0, 30.0]], [[10.0, 20.0, 30.0, 40.0]]
    assert [b.tolist() for b in likeliest] == [right, right]
    assert [b.tolist() for b in known] == [down, right], "where it is ground, the likeliest object's"


def test_scores_of_a_cascade_are_of_the_mean_of_its_stages() -> None:
    method = detection(stages=3).eval()
    for number, stage in enumerate(method.stages):
        for part in (stage.box_predictor.cls_score, stage.box_predictor.bbox_pred):
            torch.nn.init.zeros_(part.weight), torch.nn.init.zeros_(part.bias)
        stage.box_predictor.cls_score.bias.data[1 + number] = 3.0
        torch.nn.init.zeros_(stage.mask_predictor.mask_fcn_logits.weight)
        stage.mask_predictor.mask_fcn_logits.bias.data[:] = number - 1.0
    (result,) = method.find(data(1)["train"].views[0], [SIZE])
    expected = F.softmax(torch.tensor([0.0, 1.0, 1.0, 1.0]), 0)[1]
    assert len(result.scores) and torch.allclose(result.scores, expected.expand_as(result.scores))
    assert set(result.labels.tolist()) == {0, 1, 2}
    mean = torch.sigmoid(torch.tensor([-1.0, 0.0, 1.0])).mean()
    torch.testing.assert_close(result.masks, mean.expand_as(result.masks))


# --- whole pictures ---------------------------------------------------------------------------------------------------


def test_boxes_are_in_the_pixels_of_the_picture_and_inside_it() -> None:
    method = detection().eval()
    for sides in ((30, 100), (90, 40), (64, 64)):
        view, inside = framed(torch.rand(3, *sides), SIZE, None)
        result = find(method, view[None], inside, sides)
        assert len(result.boxes)
        assert result.boxes.min() >= 0
        assert result.boxes[:, [0, 2]].max() <= sides[1] and result.boxes[:, [1, 3]].max() <= sides[0]
        assert result.boxes[:, [0, 2]].max() > 0.5 * sides[1] and result.boxes[:, [1, 3]].max() > 0.5 * sides[0]
        assert result.pixels(sides).shape == (len(result.boxes), *sides)


@pytest.mark.parametrize("sides", [(30, 100), (90, 40), (200, 128)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_whole_pictures_are_shown_as_views_show_them(sides: tuple[int, int], dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    picture = torch.rand(3, *sides, generator=random)
    picture = (picture * 255).to(torch.uint8) if dtype == torch.uint8 else picture
    shown, _ = DetectView(scale=(1.0, 1.0), flip=0.0)(picture, objects([], sides), SIZE, Draws(0))
    assert torch.equal(framed(picture, SIZE, None)[0], shown)


def test_a_crop_of_a_very_thin_picture_stays_small() -> None:
    view = DetectView(short=(40,), crop=1.0)
    picture, after = view(torch.rand(3, 4, 3000), objects([[0, 0, 3000, 4]], (4, 3000)), SIZE, Draws(0))
    assert picture.shape == (3, *SIZE) and len(after.boxes) == 1


def test_masks_are_pasted_where_their_box_is() -> None:
    one = found([[10, 20, 38, 48]])
    one.masks[0, :, :14] = 0.0
    pixels = one.pixels(SIZE)[0]
    ys, xs = pixels.nonzero().unbind(1)
    assert (ys.min(), ys.max(), xs.min(), xs.max()) == (20, 47, 24, 37)
    assert one.surer(0.95).as_objects(SIZE).boxes.shape == (0, 4)


def test_the_surest_are_the_first() -> None:
    """As many as are asked for, and no more than there are."""
    several = found([[0, 0, 10 + k, 10] for k in range(3)])
    assert several.surest(2).boxes[:, 2].tolist() == [10, 11] and len(several.surest(2).masks) == 2
    assert len(several.surest(9).scores) == 3


def test_patches_that_are_not_square_and_grids_of_one_row_are_refused() -> None:
    with pytest.raises(SettingsError, match="square patches, not 8 x 4"):
        DetectionSettings().build(
            build_vit(BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=(8, 4), width=24), 3), 2
        )
    with pytest.raises(SettingsError, match="2 x 2 patches at least"):
        DetectionSettings().check((1, 4), 8)

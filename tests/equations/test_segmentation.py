"""Segmentation: the measure (oracle 66), the loss, the networks' shapes, whole pictures by windows, and the schedule."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, jaccard_score

import tutelage.segmenter as segmenting
from tutelage.api import settings_for
from tutelage.batch import Batch
from tutelage.clock import Clock, warmup_poly, warmup_steps
from tutelage.confusion import confusion, overlap
from tutelage.data.index import Statistics
from tutelage.dense import FCNHead, FourScales, LinearHead, UPerHead, features, taps
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.engine.optim import build_optimizer
from tutelage.errors import SettingsError
from tutelage.methods.segmentation import Segmentation, SegmentationSettings, pixel_cross_entropy
from tutelage.segmenter import Segmenter

START = Clock(4, 8, 10)


def test_miou_by_hand() -> None:
    """Oracle 66: perfect is 1, nothing right is 0, and a case in between; pixels of no class do not count."""
    truth = torch.tensor([0, 0, 1, 1, 2, 255])
    assert overlap(confusion(truth.clamp(max=2), truth, 3))[:2] == (1.0, 1.0)
    assert overlap(confusion(torch.tensor([1, 1, 2, 2, 0, 0]), truth, 3))[:2] == (0.0, 0.0)
    found = overlap(confusion(torch.tensor([0, 1, 1, 1, 1, 1]), truth, 3))
    np.testing.assert_allclose(found.iou, [1 / 2, 2 / 4, 0.0])
    assert found.miou == pytest.approx(1 / 3) and found.accuracy == pytest.approx(3 / 5)


def test_a_class_that_is_nowhere_does_not_count() -> None:
    found = overlap(confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 4))
    assert found.iou.isnan().tolist() == [False, False, True, True]
    assert found.miou == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_miou_is_scikit_learns_and_pools_pixels_over_pictures() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 5, (3, 16, 16)), rng.integers(0, 5, (3, 16, 16))
    tables = [confusion(torch.from_numpy(p), torch.from_numpy(t), 5) for p, t in zip(predicted, truth, strict=True)]
    found = overlap(sum(tables[1:], tables[0]))
    expected = jaccard_score(truth.ravel(), predicted.ravel(), average=None)
    np.testing.assert_allclose(found.iou, expected)
    assert found.miou == pytest.approx(expected.mean())
    assert found.accuracy == pytest.approx(accuracy_score(truth.ravel(), predicted.ravel()))


def test_the_loss_is_the_mean_over_the_pixels_that_count() -> None:
    rng = np.random.default_rng(0)
    logits, mask = rng.normal(size=(2, 3, 4, 4)), rng.integers(0, 3, (2, 4, 4)).astype(np.uint8)
    mask[0, :2] = 255
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    own = [-log_p[b, mask[b, y, x], y, x] for b, y, x in np.argwhere(mask != 255)]
    assert len(own) == 24
    found = pixel_cross_entropy(torch.from_numpy(logits), torch.from_numpy(mask))
    assert found.item() == pytest.approx(np.mean(own), abs=1e-12)
    nothing = pixel_cross_entropy(torch.from_numpy(logits), torch.full((2, 4, 4), 255, dtype=torch.uint8))
    assert nothing.item() == 0.0


@pytest.mark.parametrize(
    ("depth", "expected"), [(12, (3, 5, 7, 11)), (24, (7, 11, 15, 23)), (6, (1, 2, 3, 5)), (4, (0, 1, 2, 3))]
)
def test_features_are_taken_where_the_papers_take_them(depth: int, expected: tuple[int, ...]) -> None:
    assert taps(depth) == expected


def vit(size: int = 32, depth: int = 4) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_vit(
        BackboneSettings(name="vit_tiny_patch16_224", image_size=size, patch_size=8, width=24, depth=depth, heads=2), 3
    )


def test_maps_are_the_patch_tokens_after_their_blocks() -> None:
    model, x = vit().eval(), torch.randn(2, 3, 32, 32)
    tokens = model.norm_pre(model._pos_embed(model.patch_embed(x)))
    for block, found in zip(model.blocks, features(model, x), strict=True):
        tokens = block(tokens)
        torch.testing.assert_close(found, tokens[:, 1:].transpose(1, 2).reshape(2, 24, 4, 4))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_scales_and_heads_have_the_shapes_of_the_table(norm: str) -> None:
    maps = [torch.randn(2, 24, 4, 6) for _ in range(4)]
    scales = FourScales(24, norm)(maps)
    assert [tuple(m.shape) for m in scales] == [(2, 24, 16, 24), (2, 24, 8, 12), (2, 24, 4, 6), (2, 24, 2, 3)]
    assert torch.equal(scales[2], maps[2])
    assert UPerHead(24, 16, 5, norm, 0.1)(scales).shape == (2, 5, 16, 24)
    assert FCNHead(24, 8, 5, norm, 0.1)(scales[2]).shape == (2, 5, 4, 6)
    assert LinearHead(24, 5, norm)(maps).shape == (2, 5, 4, 6)


def test_upernet_of_a_vit_b_has_the_published_weight() -> None:
    """164 M (PseudoMAE, Table 4), within a twentieth: positions and the auxiliary head may be counted otherwise."""
    with torch.device("meta"):
        encoder = build_vit(BackboneSettings(name="vit_base_patch16_224", image_size=512, positions="learned"), 3)
        method = SegmentationSettings().build(encoder, 150)
    assert sum(p.numel() for p in method.parameters()) == pytest.approx(164e6, rel=0.05)


def segmentation(**changes: object) -> Segmentation:
    torch.manual_seed(0)
    settings = SegmentationSettings(**{"channels": 8, "auxiliary_channels": 8, "dropout": 0.0, **changes})
    return settings.build(vit(), 3)


def data() -> dict[str, Batch]:
    random = torch.Generator().manual_seed(1)
    masks = torch.randint(0, 3, (4, 32, 32), generator=random).to(torch.uint8)
    x = torch.randn(4, 3, 32, 32, generator=random)
    return {"train": Batch((x,), (), torch.zeros(4, dtype=torch.int64), torch.arange(4), masks=masks)}


@pytest.mark.parametrize("head", ["upernet", "linear"])
def test_the_losses_are_those_of_the_heads(head: str) -> None:
    method, batch = segmentation(head=head).eval(), data()
    x, masks = batch["train"].views[0], batch["train"].masks
    out = method(batch, START)
    assert out.parts["cross_entropy"].item() == pytest.approx(
        torch.nn.functional.cross_entropy(method.logits(x), masks.long()).item(), rel=1e-5
    )
    if head == "linear":
        assert out.loss is out.parts["cross_entropy"] and not hasattr(method, "auxiliary")
    else:
        assert out.loss.item() == pytest.approx(
            out.parts["cross_entropy"].item() + 0.4 * out.parts["auxiliary"].item(), rel=1e-6
        )
    assert segmentation(auxiliary_weight=0.0).eval()(batch, START).parts.keys() == {"cross_entropy"}


def test_every_parameter_but_the_unused_norm_learns() -> None:
    method = segmentation().train()
    method(data(), START).loss.backward()
    still = {name for name, p in method.named_parameters() if p.grad is None}
    assert still == {"student.norm.weight", "student.norm.bias"}
    assert not any(p.requires_grad for p in method.student.norm.parameters())


def test_a_skipped_step_leaves_no_trace_in_running_statistics() -> None:
    method, batch = segmentation().train(), data()
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    poisoned = replace(batch["train"], views=(torch.full_like(batch["train"].views[0], torch.nan),))
    method({"train": poisoned}, START)
    method({"train": poisoned}, START)  # a second micro-batch
    assert not all(buffer.isfinite().all() for buffer in method.buffers()), "the fault happened"
    method.after_step(START.tick(applied=False))
    assert all(torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())
    method(batch, START.tick(applied=False))
    method.after_step(START.tick(applied=False).tick())
    assert any(not torch.equal(buffer, before[name]) for name, buffer in method.named_buffers())


class Constant(torch.nn.Module):
    """Says of each pixel where its window thinks that it is."""

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, :2] * 2 + 1


def segmenter(size: int = 16) -> Segmenter:
    method = Constant()
    return Segmenter(method, Statistics((0.0,) * 3, (1.0,) * 3), (size, size), 3, ("a", "b"), (0, 1), "")  # type: ignore[arg-type]


def test_windows_that_agree_are_averaged_to_what_one_would_say() -> None:
    """A network that looks at each pixel by itself says the same of a whole picture, however it is cut."""
    x = torch.rand(3, 16, 55)
    torch.testing.assert_close(segmenter().logits(x), 2 * x[:2] + 1)
    square = torch.rand(3, 16, 16)
    torch.testing.assert_close(segmenter().logits(square), 2 * square[:2] + 1)


class Placed(torch.nn.Module):
    """Says of each pixel what it is, times where it lies in its window: no two windows agree."""

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = torch.arange(x.shape[-2])[:, None], torch.arange(x.shape[-1])
        return torch.stack([x[:, 0] * (1 + rows + 2 * columns), x[:, 1] * (40 - rows), x[:, 2] * (3 + columns)], 1)


def placed() -> Segmenter:
    return replace(segmenter(12), method=Placed(), classes=("a", "b", "c"), values=(0, 1, 2))


@pytest.mark.parametrize("sides", [(12, 44), (61, 12), (12, 12)])
def test_overlapping_windows_are_averaged_pixel_by_pixel(sides: tuple[int, int]) -> None:
    """Starts 0, 8, 16, ... and the last window at the end, in NumPy; a picture whose short side is a window is not resized."""
    x = torch.rand(3, *sides, generator=torch.Generator().manual_seed(0))
    total, count = np.zeros((3, *sides)), np.zeros(sides)
    starts = [[0, *(s for s in range(8, side - 12, 8)), side - 12] if side > 12 else [0] for side in sides]
    assert max(map(len, starts)) in (1, 5, 8)
    for top in starts[0]:
        for left in starts[1]:
            piece = x[:, top : top + 12, left : left + 12].numpy()
            rows, columns = np.arange(12)[:, None], np.arange(12)
            weight = np.stack([1 + rows + 2 * columns, 40 - rows + 0 * columns, 3 + columns + 0 * rows])
            total[:, top : top + 12, left : left + 12] += piece * weight
            count[top : top + 12, left : left + 12] += 1
    np.testing.assert_allclose(placed().logits(x), total / count, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sides", [(7, 100), (100, 7), (30, 41), (200, 133), (1, 60)])
def test_a_picture_in_blocks_is_the_picture_at_once(sides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(3, *sides, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(segmenting, "STRETCH", 1000)
    whole = placed().logits(x)
    factor = max(12 / side for side in sides)
    scaled = tuple(max(12, round(side * factor)) for side in sides)
    resized = torch.nn.functional.interpolate(x[None], size=scaled, mode="bicubic", antialias=True)[0].clamp(0, 1)
    expected = torch.nn.functional.interpolate(placed().logits(resized)[None], size=sides, mode="bilinear")[0]
    torch.testing.assert_close(whole, expected, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(segmenting, "STRETCH", 1)
    monkeypatch.setattr(segmenting, "BLOCK", 100)
    torch.testing.assert_close(placed().logits(x), whole, rtol=1e-4, atol=1e-4)
    assert torch.equal(placed().classes_of(x), placed().logits(x).argmax(0).to(torch.uint8))


def test_a_picture_is_resized_to_what_pictures_hold() -> None:
    """Hard edges overshoot in a cubic; training cuts that, and so does this: black is 0 and white 1 of what is normalised."""
    statistics = Statistics((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    mean, std = (torch.tensor(values)[:, None, None] for values in statistics)
    picture = (torch.arange(9 * 9).reshape(9, 9) // 3 % 2).float().expand(3, 9, 9)
    seen = []

    class Looking(Constant):
        def logits(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x[0] * std + mean)
            return super().logits(x)

    replace(segmenter(), method=Looking(), statistics=statistics).logits((picture - mean) / std)
    (unit,) = seen
    assert unit.shape == (3, 16, 16)
    torch.testing.assert_close((unit.min(), unit.max()), (torch.tensor(0.0), torch.tensor(1.0)), atol=1e-6, rtol=0)


def test_memory_is_bounded_on_a_panorama(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 x 500 px and 150 classes are 6 GB of logits: no more than a block of them is there at a time, nor four windows."""
    monkeypatch.setattr(segmenting, "BLOCK", 3000)
    largest, mean = [], Segmenter._mean

    def noted(self, x, rows, columns):
        found = mean(self, x, rows, columns)
        largest.append(found.shape[1:].numel())
        return found

    monkeypatch.setattr(Segmenter, "_mean", noted)
    one, panorama = placed(), torch.rand(3, 30, 1200)
    assert all(logits.numel() <= 3000 for _, _, logits in one._blocks(panorama))
    assert len(largest) == 10 and max(largest) <= 12 * (4 * 12 + 2)


@pytest.mark.parametrize("shape", [(40, 16), (5, 9), (31, 200)])
def test_any_picture_gets_an_answer_of_its_own_size(shape: tuple[int, int]) -> None:
    found = segmenter().logits(torch.full((3, *shape), 0.25))
    torch.testing.assert_close(found, torch.full((2, *shape), 1.5))


def test_batch_statistics_of_one_picture_are_refused() -> None:
    with pytest.raises(SettingsError, match="C-25"):
        settings_for("segment-quickstart", micro_batch=1).check()
    for changes in ({"head": "linear"}, {"norm": "layer"}):
        settings_for("segment-quickstart", micro_batch=1, method=changes).check()
    settings_for("segment-quickstart", micro_batch=2).check()


def test_steps_fall_to_a_tenth_at_their_epochs_after_the_warm_up() -> None:
    clock = Clock(4, 8, 20)  # ten epochs of two steps
    rates = [
        warmup_steps(replace(clock, step=t), peak=2.0, floor=0.0, warmup_epochs=2, drops=(5, 8)) for t in range(21)
    ]
    expected = [*(t / 2 for t in range(4)), *[2.0] * 6, *[0.2] * 6, *[0.02] * 5]
    np.testing.assert_allclose(rates, expected)
    assert warmup_steps(replace(clock, step=20), peak=2.0, floor=0.1, warmup_epochs=0, drops=(5, 8)) == 0.1


@pytest.mark.parametrize("wrong", [{"schedule": "steps"}, {"drops": [3]}])
def test_steps_and_their_epochs_go_together(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="go together"):
        settings_for("segment-quickstart", optim=wrong)


def test_poly_falls_in_a_straight_line_beside_the_warm_up() -> None:
    """BEiT's: lr (1 - t / T), times t / W in the first W steps."""
    rates = [warmup_poly(Clock(4, 8, 100, step=t), peak=2.0, floor=0.0, warmup_epochs=5) for t in range(101)]
    expected = [2.0 * (1 - t / 100) * min(1.0, t / 10) for t in range(101)]
    np.testing.assert_allclose(rates, expected, atol=1e-12)
    floored = warmup_poly(Clock(4, 8, 100, step=100), peak=2.0, floor=0.5, warmup_epochs=0, power=0.9)
    assert floored == 0.5


def test_the_decoder_learns_at_the_whole_rate_and_the_encoder_by_its_layer() -> None:
    settings = settings_for("segment-quickstart", backbone={"image_size": 32, "width": 24, "depth": 4, "heads": 2})
    method = settings.method.build(vit(), 3)
    groups = build_optimizer(method, settings.optim).param_groups
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scale[id(method.student.patch_embed.proj.weight)] == pytest.approx(0.9**5)
    assert scale[id(method.student.blocks[3].attn.qkv.weight)] == pytest.approx(0.9)
    decoder = [p for name, p in method.named_parameters() if not name.startswith("student.")]
    assert decoder and all(scale[id(p)] == 1.0 for p in decoder)

"""Semiformer: its losses against the formula, its limits, and how features travel between its streams."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from equations import formulas
from equations.tiny import PATCHES, START, gradients, pictures, shake, tiny_vit
from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.encoder import embedded, encode, grid_of
from tutelage.errors import DataError, SettingsError
from tutelage.method import MethodSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.rc_mae import RCMAESettings
from tutelage.methods.semi_mae import SemiMAESettings
from tutelage.methods.semiformer import Semiformer, SemiformerSettings
from tutelage.two_streams import Meeting, TwoStreams, meetings, resampled

CLASSES = 5
LATER = Clock(batch_size=8, num_pictures=64, total_steps=80, step=40, updates=40)


def semiformer(branch: MethodSettings | None = None, **settings: object) -> Semiformer:
    torch.manual_seed(0)
    settings = {"conv": "resnet10t", "label_smoothing": 0.0, **settings}
    kind = SemiformerSettings[type(branch) if branch else MAESettings]
    method = kind(branch=branch, **settings).build(tiny_vit(), CLASSES).double()
    shake(method)
    return method


def batch(labels: list[int], unlabelled: int, seed: int = 1) -> dict[str, Batch]:
    b = len(labels)
    known = Batch((pictures(b, seed),), (torch.rand(b, PATCHES),), torch.tensor(labels), torch.arange(b))
    views = (pictures(unlabelled, seed + 1), pictures(unlabelled, seed + 2))
    generator = torch.Generator().manual_seed(seed)
    keys = (torch.rand(unlabelled, PATCHES, generator=generator),)
    return {
        "labelled": known,
        "unlabelled": Batch(views, keys, torch.full((unlabelled,), -1), torch.arange(unlabelled)),
    }


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -np.log(formulas.softmax(logits))[np.arange(len(labels)), labels]


def test_the_defaults_are_those_of_its_code_and_the_branch_weighs_as_in_semi_mae() -> None:
    """Read in wengzejia1/Semiformer at 0e3b5be (docs/methods/semiformer.md); mu is Semi-MAE's (section 4.1)."""
    published = {
        "conv": "resnet50",
        "exchanges": "blocks",
        "guesses_by": "conv",
        "answer": "both",
        "unlabelled_weight": 4.0,
        "unlabelled_ratio": 7,
        "threshold": 0.7,
        "warmup_epochs": 30,
        "max_warmup_share": 30 / 600,
        "label_smoothing": 0.1,
        "branch": None,
        "branch_weight": 5.0,
    }
    settings = SemiformerSettings[MAESettings]()
    assert {name: getattr(settings, name) for name in published} == published
    unlabelled, labelled = settings.streams["unlabelled"], settings.streams["labelled"]
    assert (unlabelled.views, unlabelled.labels, unlabelled.share) == (("weak", "strong"), "unknown", 7)
    assert (labelled.views, labelled.labels, labelled.share) == (("strong",), "known", 1)


@pytest.mark.parametrize(("guesses_by", "smoothing"), [("conv", 0.0), ("vit", 0.1), ("both", 0.0)])
def test_loss_is_the_mean_of_both_streams_on_labels_and_on_guesses(guesses_by: str, smoothing: float) -> None:
    settings = {"threshold": 0.25, "unlabelled_weight": 4.0, "label_smoothing": smoothing}
    method = semiformer(guesses_by=guesses_by, **settings).eval()  # batch norms as they are
    data = batch([3, 0, 4], 6)
    weak, strong = (view for view in data["unlabelled"].views)
    with torch.no_grad():
        known, guessing, asked = (method.say(x).numpy() for x in (data["labelled"].views[0], weak, strong))
    who = {"conv": guessing[0], "vit": guessing[1], "both": guessing[0] + guessing[1]}[guesses_by]
    p = formulas.softmax(who)
    guesses, sure = p.argmax(1), p.max(1) > 0.25
    assert sure.sum() > 0
    sharp = np.mean([cross_entropies(known[k], np.array([3, 0, 4])).mean() for k in (0, 1)])
    flat = np.mean([-np.log(formulas.softmax(known[k])).mean() for k in (0, 1)])
    labelled = (1 - smoothing) * sharp + smoothing * flat
    unlabelled = np.mean([(cross_entropies(asked[k], guesses) * sure).sum() / 6 for k in (0, 1)])
    out = method(data, LATER)
    assert out.parts["cross_entropy"].item() == pytest.approx(labelled, abs=1e-10)
    assert out.parts["unlabelled"].item() == pytest.approx(unlabelled, abs=1e-10)
    assert out.loss.item() == pytest.approx(labelled + 4 * unlabelled, abs=1e-10)


def test_in_the_warm_up_only_labels_are_learned_from() -> None:
    method = semiformer(branch=MAESettings(decoder={"width": 16, "depth": 1, "heads": 2}), max_warmup_share=0.2)
    out = method(batch([3, 0], 4), START)
    assert set(out.parts) == {"cross_entropy"} and out.loss.item() == pytest.approx(out.parts["cross_entropy"].item())
    found = gradients(method, out.loss)
    assert found.keys() == {name for name, p in method.named_parameters() if p.requires_grad}
    of_branch = [g for name, g in found.items() if name.startswith("branch.")]
    assert of_branch and not any(bool(g.any()) for g in of_branch)


def test_apart_and_by_the_transformers_guesses_its_half_is_fixmatch() -> None:
    """The two halves of the loss share nothing then, so twice the ViT's gradient is FixMatch's."""
    data = batch([3, 0, 1], 5)
    data["labelled"] = Batch(
        (data["labelled"].views[0],), *(getattr(data["labelled"], n) for n in ("keys", "labels", "indices"))
    )
    method = semiformer(exchanges="none", guesses_by="vit", threshold=0.25, unlabelled_weight=3.0)
    settings = SemiMAESettings[MAESettings](threshold=0.25, unlabelled_weight=3.0, branch=None)
    fixmatch = settings.build(tiny_vit(), CLASSES).double()
    fixmatch.student.load_state_dict(method.student.state_dict())
    fixmatch.head.load_state_dict(method.head.state_dict())
    ours, theirs = gradients(method, method(data, LATER).loss), gradients(fixmatch, fixmatch(data, LATER).loss)
    assert theirs["head.weight"].abs().max() > 0
    for name in (n for n in theirs if theirs[n] is not None):
        assert torch.allclose(2 * ours[name], theirs[name], atol=1e-10), name


def test_no_gradient_reaches_what_makes_the_guesses_through_the_weak_view() -> None:
    data = batch([3, 0], 4)
    weak = data["unlabelled"].views[0].requires_grad_()
    semiformer(threshold=0.0)(data, LATER).loss.backward()
    assert weak.grad is None


def test_guesses_are_made_with_running_statistics_and_change_none() -> None:
    method = semiformer().train()
    data = batch([3, 0], 4)
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    guesses = method.guess(data["unlabelled"].views[0])
    assert method.training and method.conv.training
    assert all(torch.equal(before[name], buffer) for name, buffer in method.named_buffers())
    alone = method.guess(data["unlabelled"].views[0][:1])  # no batch statistics: others do not matter
    assert alone.confidence[0].item() == pytest.approx(guesses.confidence[0].item(), abs=1e-12)


def test_a_skipped_step_leaves_no_trace_in_the_running_statistics() -> None:
    method = semiformer().train()
    before = {name: buffer.clone() for name, buffer in method.named_buffers()}
    method(batch([3, 0], 4), LATER)
    assert any(not torch.equal(before[name], buffer) for name, buffer in method.named_buffers())
    skipped = Clock(batch_size=8, num_pictures=64, total_steps=80, step=41, updates=40)
    method.after_step(skipped)
    assert all(torch.equal(before[name], buffer) for name, buffer in method.named_buffers())


def test_the_sum_of_both_streams_answers_or_one_of_them() -> None:
    x = pictures(3, 5)
    for answer in ("both", "conv", "vit"):
        method = semiformer(answer=answer).eval()
        conv, vit = method.say(x)
        wanted = {"both": conv + vit, "conv": conv, "vit": vit}[answer]
        assert torch.allclose(method.logits(x), wanted, atol=1e-12)


def test_the_branch_is_the_masked_method_around_the_transformer() -> None:
    branch = MAESettings(decoder={"width": 16, "depth": 1, "heads": 2})
    method = semiformer(branch=branch, branch_weight=5.0, threshold=0.25).eval()
    data = batch([3, 0], 4)
    out = method(data, LATER)
    alone = method.branch(
        {
            "train": Batch(
                (data["unlabelled"].views[0],), data["unlabelled"].keys, torch.zeros(4).long(), torch.arange(4)
            )
        },
        LATER,
    )
    assert out.parts["reconstruction"].item() == pytest.approx(alone.loss.item(), abs=1e-12)
    parts = out.parts
    assert out.loss.item() == pytest.approx(
        (parts["cross_entropy"] + 4 * parts["unlabelled"] + 5 * parts["reconstruction"]).item(), abs=1e-10
    )
    assert not any(name.startswith("branch.student") for name, _ in method.named_parameters())


# --- two streams ------------------------------------------------------------------------------------------------------


def streams(exchanges: str = "blocks", name: str = "resnet10t") -> tuple[TwoStreams, torch.nn.Module]:
    torch.manual_seed(0)
    vit = tiny_vit().double()
    return TwoStreams(name, vit, exchanges).double().eval(), vit


def test_apart_the_streams_are_a_resnet_and_a_vit() -> None:
    both, vit = streams("none")
    x = pictures(2, 3)
    out = both(vit, x)
    assert torch.allclose(out.token, encode(vit, x).cls[:, 0], atol=1e-12)
    y = both.stem(x)
    for block in both.blocks:
        y = block(y)
    assert torch.allclose(out.conv, y.mean((2, 3)), atol=1e-12)
    assert len(both.to_maps) == 0


@pytest.mark.parametrize("exchanges", ["blocks", "stages"])
def test_each_stream_is_told_what_the_other_has_seen(exchanges: str) -> None:
    """By hand: the passes written out with the parts of the network."""
    both, vit = streams(exchanges)
    x = pictures(2, 3)
    y, tokens, done, at = both.stem(x), embedded(vit, x), 0, 0
    for k, meeting in enumerate(both.meetings):
        for block in both.blocks[done : meeting.conv]:
            y = block(y)
        for block in vit.blocks[at : meeting.vit - 1]:
            tokens = block(tokens)
        down, up = both.to_tokens[k], both.to_maps[k]
        rows, cols = grid_of(vit)
        z = F.conv2d(y, down.project.weight, down.project.bias)
        z = resampled(z, (rows, cols)).permute(0, 2, 3, 1).reshape(2, rows * cols, -1)
        tokens = torch.cat(
            [
                tokens[:, :1],
                tokens[:, 1:] + F.gelu(F.layer_norm(z, z.shape[-1:], down.norm.weight, down.norm.bias, 1e-6)),
            ],
            1,
        )
        tokens = vit.blocks[meeting.vit - 1](tokens)
        z = F.conv2d(tokens[:, 1:].reshape(2, rows, cols, -1).permute(0, 3, 1, 2), up.project.weight, up.project.bias)
        y = y + resampled(F.relu(up.norm(z)), tuple(y.shape[-2:]))
        done, at = meeting.conv, meeting.vit
    for block in both.blocks[done:]:
        y = block(y)
    for block in vit.blocks[at:]:
        tokens = block(tokens)
    out = both(vit, x)
    assert torch.allclose(out.conv, y.mean((2, 3)), atol=1e-10)
    assert torch.allclose(out.token, vit.norm(tokens)[:, 0], atol=1e-10)


def test_they_meet_eleven_times_with_resnet_50_and_twelve_blocks() -> None:
    found = meetings("blocks", [3, 4, 6, 3], 12)
    assert [m.vit for m in found] == list(range(2, 13))
    assert [m.conv for m in found] == [3, 4, 6, 7, 8, 10, 11, 12, 14, 15, 16]
    assert meetings("stages", [3, 4, 6, 3], 12) == [Meeting(7, 4), Meeting(13, 8), Meeting(16, 12)]
    assert meetings("none", [3, 4, 6, 3], 12) == []


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("exchanges", ["blocks", "stages"])
def test_meetings_never_go_back(exchanges: str, depth: int) -> None:
    found = meetings(exchanges, [1, 1, 1, 1], depth)
    assert all(1 <= m.vit <= depth and 1 <= m.conv <= 4 for m in found)
    assert all(a.vit < b.vit and a.conv <= b.conv for a, b in pairwise(found))


def test_a_map_is_brought_to_a_smaller_size_by_means_and_to_a_larger_by_the_nearest() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resampled(x, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(resampled(resampled(x, (8, 8)), (4, 4)), x)
    assert resampled(x[..., :1, :1], (3, 3)).unique().tolist() == [0.0]


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conv", "code"), [("resnet5000", "C-10"), ("vit_tiny_patch16_224", "C-11"), ("efficientnet_b0", "C-11")]
)
def test_what_is_no_resnet_is_refused(conv: str, code: str) -> None:
    with pytest.raises(SettingsError, match=code):
        SemiformerSettings[MAESettings](conv=conv).check((6, 6), 64)


def test_a_pass_with_one_labelled_picture_is_refused() -> None:
    SemiformerSettings[MAESettings](conv="resnet10t").check((6, 6), 16)
    with pytest.raises(SettingsError, match="C-24: a pass of a process has 1 labelled pictures.*micro_batch of 16"):
        SemiformerSettings[MAESettings](conv="resnet10t").check((6, 6), 8)


def test_the_teachers_of_its_branch_are_its_own() -> None:
    assert list(semiformer(branch=RCMAESettings(decoder={"width": 16, "depth": 1, "heads": 2})).teachers) == [
        "consistency_teacher"
    ]


def test_a_set_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="D-17"):
        SemiformerSettings[MAESettings]().check_classes("photos", 0)

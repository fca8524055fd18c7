"""PseudoMAE as a whole: oracles 5, 42 and 46, and the switches A5, A8, A9, A11, A12, A13, A18 and A21 on values."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equations import formulas
from equations.formulas import Array
from equations.tiny import (
    DECODER,
    DEPTH,
    GRID,
    HEAD,
    HEADS,
    HIDDEN,
    PATCH,
    PATCHES,
    START,
    VISIBLE,
    batch,
    build,
    disturbed,
    gradients,
    pseudomae,
)
from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.errors import SettingsError
from tutelage.masking import random_mask
from tutelage.method import Method
from tutelage.methods.pseudomae import PseudoMAESettings

SIZE = {"patch": PATCH, "depth": DEPTH, "heads": HEADS}


def head(x: Array, module: torch.nn.Module, kind: str) -> Array:
    """Logits of rows, by whichever trunk and prototypes are that kind's; vectors where there are no prototypes."""
    w = formulas.weights_of(module)
    if module.in_norm == "token":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    last = kind == "patch"
    trunk = int(last and "trunks.1.0.weight" in w)
    if "prototypes.0.weight" not in w:
        return formulas.project(x, w, trunk)
    return formulas.head(x, w, trunk, int(last and "prototypes.1.weight" in w))


def folded(picture: Array, ids: Array, w: formulas.Weights, folds: int) -> tuple[Array, Array]:
    """The class token of each fold, and the tokens of all folds."""
    each = [formulas.encode(picture, fold, w, **SIZE) for fold in ids.reshape(folds, -1)]
    return np.stack([one[0] for one in each]), np.concatenate([one[1:] for one in each])


def labels_of(logits: list[Array], temperature: float, scope: str, folds: int) -> Array:
    """Assignments of the tokens [b, t, m] of all pictures, balanced together or fold by fold."""
    x = np.stack(logits)
    b, t, m = x.shape
    if scope != "per_fold":
        return formulas.sinkhorn(x.reshape(-1, m), temperature).reshape(b, t, m)
    parts = [formulas.sinkhorn(part.reshape(-1, m), temperature) for part in np.split(x, folds, axis=1)]
    return np.concatenate([part.reshape(b, t // folds, m) for part in parts], axis=1)


def reference(method: Method, one: Batch, clock: Clock) -> dict[str, float]:
    """L_m, L_c and L_p of methods 1.5, one picture, token and fold at a time; of no labels with dots for cross-entropies."""
    s = method.settings
    student, decoder = formulas.weights_of(method.student), formulas.weights_of(method.decoder)
    labelling = formulas.weights_of(method.labelling_teacher.encoder)
    rebuilding = labelling
    if "reconstruction_teacher" in method.teachers:
        rebuilding = formulas.weights_of(method.reconstruction_teacher.encoder)
    teachers_head = method.labelling_teacher["head"] if s.head_teacher == "ema" else method.head
    ramp = min(30, 0.1 * clock.total_steps * clock.batch_size / clock.num_pictures)
    temperature = 0.04 + 0.03 * min(1, clock.step * clock.batch_size / clock.num_pictures / ramp)

    y, y_cls, e, cls_logits, patch_logits, errors = [], [], [], [], [], []
    for row in range(len(one.labels)):
        simple = one.views[0][row].numpy()
        view = simple if s.teacher_mode == "single" else one.views[1][row].numpy()
        order, other = (np.argsort(keys[row].numpy()) for keys in one.keys)
        keep, hide = order[:VISIBLE], order[VISIBLE:]
        z = formulas.encode(simple, keep, student, **SIZE)
        out = formulas.decode(z, keep, decoder, num_patches=PATCHES, depth=2, heads=4)
        y.append(out[1:][hide])
        y_cls.append(out[0] if s.class_source == "decoder" else z[0])
        if s.reconstruction_target == "pixels":
            rebuilt = formulas.linear(y[-1], formulas.weights_of(method), "pixels")
            pixels = formulas.standardise(formulas.patches(simple, PATCH)[hide])
            errors += [((rebuilt[i] - pixels[i]) ** 2).mean() for i in range(HIDDEN)]
        else:
            target = formulas.standardise(folded(simple, hide, rebuilding, s.folds)[1])
            errors += [1 - formulas.cosine(y[-1][i], target[i]) for i in range(HIDDEN)]
        ids = {"same": hide, "independent": other[VISIBLE:], "unmasked": np.arange(PATCHES)}[s.label_mask]
        e_cls, e_patches = folded(view, ids, labelling, s.label_folds)
        e.append(e_patches)
        cls_logits.append(head(e_cls, teachers_head, "class"))
        patch_logits.append(head(e_patches, teachers_head, "patch"))

    if s.assignment == "sinkhorn":
        c = labels_of(cls_logits, temperature, s.sinkhorn_scope, s.label_folds)
        p = labels_of(patch_logits, temperature, s.sinkhorn_scope, s.label_folds)
    elif s.assignment == "centring":
        centre = {name: formulas.weights_of(module)["centre"] for name, module in method.centres.items()}
        c = formulas.softmax((np.stack(cls_logits) - centre["class"]) / temperature)
        p = formulas.softmax((np.stack(patch_logits) - centre["patch"]) / temperature)
    else:
        c, p = np.stack(cls_logits), np.stack(patch_logits)
    class_costs, patch_costs = [], []

    def cost(student: Array, label: Array) -> float:
        return 1 - student @ label if s.assignment == "none" else formulas.cross_entropy(student, label, 0.1)

    for row in range(len(y)):
        own = head(y_cls[row][None], method.head, "class")[0]
        class_costs += [cost(own, label) for label in c[row]]
        for token, logits in zip(y[row], head(y[row], method.head, "patch"), strict=True):
            j = np.argmax([formulas.cosine(token, candidate) for candidate in e[row]])
            patch_costs.append(cost(logits, p[row][j]))
    return {"reconstruction": np.mean(errors), "class": np.mean(class_costs), "patch": np.mean(patch_costs)}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"label_folds": 1},  # Table 9's normal clustering
        {"folds": 1, "label_folds": 2},
        {"label_mask": "independent"},  # A5
        {"label_mask": "unmasked", "label_folds": 1},
        {"class_source": "encoder"},  # A8
        {"head_teacher": "student"},  # A11
        {"sinkhorn_scope": "per_fold"},  # A13
        {"teacher_mode": "single"},  # A21
        {"teacher_mode": "single-two-forwards"},
        {"teacher_mode": "single", "label_mask": "independent"},
        {"teacher_mode": "single", "label_folds": 1},
        {"head": HEAD.model_copy(update={"prototypes": 12, "share": "shared_trunk"})},  # A9
        {"head": HEAD.model_copy(update={"prototypes": 12, "share": "separate"})},
        {"head": HEAD.model_copy(update={"prototypes": 12, "in_norm": "token"})},  # A12
        {"assignment": "centring"},  # A20
        {"assignment": "none"},
        {"assignment": "none", "head": HEAD.model_copy(update={"share": "separate"})},
        {"reconstruction_target": "pixels"},
        {"reconstruction_target": "pixels", "teacher_mode": "single"},
    ],
    ids=lambda changes: ", ".join(f"{k} {v}" for k, v in changes.items() if k != "head") or None,
)
def test_the_three_losses_equal_the_papers_equations(changes: dict[str, Any]) -> None:
    """Equations 1, 3 and 4 as methods 1.5 reads them; oracle 42 with one fold."""
    method = build(pseudomae(**changes))
    for centre in method.centres.values() if method.settings.assignment == "centring" else ():
        centre.centre.normal_()
    data = batch(method)
    out = method(data, START)
    for name, value in reference(method, data["train"], START).items():
        assert out.parts[name].item() == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("step", [0, 1, 6])
def test_the_labels_grow_softer_as_the_temperature_rises(step: int) -> None:
    """A18: 0.04 at first, 0.065 one step into a ramp of 0.4 epochs of 3 steps, 0.07 after it."""
    method = build(pseudomae())
    data = batch(method)
    clock = replace(START, step=step, updates=step)
    out = method(data, clock)
    assert out.parts["patch"].item() == pytest.approx(reference(method, data["train"], clock)["patch"], abs=1e-9)
    if step:
        sharper = method(data, START).seen["patch_labels"].max(-1).values.mean()
        assert out.seen["patch_labels"].max(-1).values.mean() < sharper


def test_every_choice_of_a_switch_gives_another_loss() -> None:
    def losses(**changes: Any) -> tuple[float, ...]:
        torch.manual_seed(0)
        method = build(pseudomae(**changes))
        return tuple(part.item() for part in method(batch(method), START).parts.values())

    choices = [
        {},
        {"cos_axis": "token"},  # A1
        {"target_norm": "picture"},  # A3
        {"label_mask": "independent"},  # A5
        {"class_source": "encoder"},  # A8
        {"head_teacher": "student"},  # A11
        {"sinkhorn_scope": "per_fold"},  # A13
        {"sinkhorn_scope": "positionwise"},
        {"match_scope": "same_fold"},  # A15
        {"match_scope": "per_fold"},
        {"match_feature": "logits"},  # A16
        {"teacher_temperature": {"start": 0.05, "end": 0.05, "epochs": 0}},  # A18
        {"teacher_mode": "single-two-forwards"},  # A21
        {"teacher_mode": "single"},
        {"head": HEAD.model_copy(update={"prototypes": 12, "in_norm": "token"})},  # A12
        {"head": HEAD.model_copy(update={"prototypes": 12, "in_norm": "batch"})},
        {"match_norm": "picture"},  # A16
        {"assignment": "none"},  # A20
        {"assignment": "centring"},
        {"sinkhorn_iterations": 0, "class_source": "encoder"},
        {"reconstruction_target": "pixels"},
    ]
    assert len({losses(**choice) for choice in choices}) == len(choices)


def test_a_centre_follows_the_rows_of_the_updates_that_were_applied() -> None:
    """A20, DINO eq. 4: c <- 0.9 c + 0.1 mean over the rows of all micro-batches; a skipped step leaves it."""
    method = build(pseudomae(assignment="centring", class_weight=0.5))
    centre, clock = method.centres["class"], START
    before = centre.centre.clone()
    logits = [torch.randn(2, 3, 12, dtype=torch.float64) + 1 for _ in range(4)]
    for rows in logits[:2]:  # two micro-batches of a step
        centre(rows, 0.04)
    clock = clock.tick()
    centre.update(clock)
    expected = 0.9 * before + 0.1 * torch.cat(logits[:2]).reshape(-1, 12).mean(0)
    torch.testing.assert_close(centre.centre, expected)

    centre(logits[2], 0.04)
    clock = clock.tick(applied=False)
    centre.update(clock)
    torch.testing.assert_close(centre.centre, expected)

    method.eval()
    centre(logits[2], 0.04)  # a monitor asks
    method.train()
    centre(logits[3], 0.04)
    centre.update(clock.tick())
    torch.testing.assert_close(centre.centre, 0.9 * expected + 0.1 * logits[3].reshape(-1, 12).mean(0))


def test_a_centred_label_favours_no_prototype_that_all_rows_favour() -> None:
    """What centring is for: with the mean taken out, labels tell rows apart and are not one prototype for all."""
    method = build(pseudomae(assignment="centring"))
    centre = method.centres["class"]
    rows = 0.01 * torch.randn(2, 3, 12, dtype=torch.float64)
    rows[..., 0] += 1
    assert (centre(rows, 0.04).argmax(-1) == 0).all()
    centre.centre.copy_(rows.reshape(-1, 12).mean(0))
    assert (centre(rows, 0.04).argmax(-1) != 0).any()


@pytest.mark.parametrize(
    ("changes", "teachers", "parts"),
    [
        ({"reconstruction_target": "pixels"}, {"labelling_teacher"}, {"student", "decoder", "pixels", "head"}),
        ({"assignment": "none"}, {"labelling_teacher", "reconstruction_teacher"}, {"student", "decoder", "head"}),
        ({"reconstruction_target": "pixels", "class_weight": 0, "patch_weight": 0}, set(), {"student", "decoder", "pixels"}),
    ],
)  # fmt: skip
def test_an_ablation_has_no_network_that_it_does_not_use(
    changes: dict[str, Any], teachers: set[str], parts: set[str]
) -> None:
    method = build(pseudomae(**changes))
    assert set(method.teachers) == teachers
    used = gradients(method, method(batch(method), START).loss)
    assert {name.partition(".")[0] for name in used} == parts
    assert used.keys() == {name for name, p in method.named_parameters() if p.requires_grad}


# --- what each network sees -------------------------------------------------------------------------------------------


def seen_after(method: Method, data: dict[str, Batch], view: int, ids: Tensor) -> dict[str, Tensor]:
    """What the method saw when the patches `ids` of one view were disturbed."""
    one = data["train"]
    views = tuple(disturbed(x, ids) if i == view else x for i, x in enumerate(one.views))
    return method({"train": replace(one, views=views)}, START).seen


@pytest.mark.parametrize(("label_mask", "folds"), [("same", 3), ("independent", 3), ("unmasked", 1)])
def test_the_labelling_teacher_sees_the_patches_that_the_setting_says(label_mask: str, folds: int) -> None:
    """Oracle 5 and A5: by which pixels of the complex view can change the labels."""
    method = build(pseudomae(label_mask=label_mask, label_folds=folds))
    data = batch(method)
    own, other = (random_mask(keys, 0.75) for keys in data["train"].keys)
    before = method(data, START).seen["patch_labels"]

    def matters(ids: Tensor) -> bool:
        return not torch.equal(before, seen_after(method, data, 1, ids)["patch_labels"])

    expected = {"same": (False, True, True), "independent": (True, True, False), "unmasked": (True, True, True)}
    assert (matters(own.ids_keep), matters(own.ids_mask), matters(other.ids_keep)) == expected[label_mask]


def test_student_and_reconstruction_teacher_share_a_mask_on_the_simple_view() -> None:
    """Oracle 5."""
    method = build(pseudomae())
    data = batch(method)
    mask, before = random_mask(data["train"].keys[0], 0.75), method(data, START).seen
    assert torch.equal(before["ids_mask"], mask.ids_mask)
    for ids, moved in ((mask.ids_keep, "prediction"), (mask.ids_mask, "target")):
        after = seen_after(method, data, 0, ids)
        changed = {
            name for name in ("prediction", "target", "patch_labels") if not torch.equal(before[name], after[name])
        }
        assert changed == {moved}
    after = seen_after(method, data, 1, mask.ids_mask)
    assert torch.equal(before["prediction"], after["prediction"])
    assert torch.equal(before["target"], after["target"])


@pytest.mark.parametrize(("mode", "looks"), [("dual", True), ("single-two-forwards", True), ("single", False)])
def test_only_a_single_pass_ignores_the_complex_view(mode: str, looks: bool) -> None:
    """A21."""
    method = build(pseudomae(teacher_mode=mode))
    data = batch(method)
    before = method(data, START).seen["class_labels"]
    after = seen_after(method, data, 1, torch.arange(PATCHES).expand(2, -1))["class_labels"]
    assert torch.equal(before, after) != looks
    expected = {"labelling_teacher", "reconstruction_teacher"} if mode == "dual" else {"labelling_teacher"}
    assert set(method.teachers) == expected


# --- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "width"), [("vit_small_patch16_224", 384), ("vit_base_patch16_224", 768)])
def test_published_sizes_have_the_published_shapes(name: str, width: int) -> None:
    """Oracle 46: the shapes of methods 1.3, which do not depend on the depth."""
    vit = build_vit(BackboneSettings(name=name, depth=1), 3)
    method = PseudoMAESettings(decoder=DecoderSettings(depth=1)).build(vit)
    view, index = torch.randn(2, 3, 224, 224), torch.zeros(2, dtype=torch.long)
    one = Batch((view, view), (torch.rand(2, 196), torch.rand(2, 196)), index, index)
    seen = method({"train": one}, Clock(2, 100, 100)).seen
    assert {key: tuple(value.shape) for key, value in seen.items()} == {
        "ids_mask": (2, 147),
        "prediction": (2, 147, width),
        "target": (2, 147, width),
        "class_labels": (2, 3, 4096),
        "patch_labels": (2, 147, 4096),
        "nearest": (2, 147, 1),
    }


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 5}, "C-21: method.folds is 5"),
        ({"label_folds": 7}, "C-21: method.label_folds is 7"),
        ({"label_mask": "unmasked"}, "C-21: method.label_mask 'unmasked' shows the labelling teacher 64 patches"),
        ({"mask_ratio": 0.995}, "N-05: mask_ratio 0.995"),
        ({"reconstruction_weight": 0, "class_weight": 0, "patch_weight": 0}, "C-24: all three loss weights are 0"),
        ({"head": HEAD}, "C-23: Sinkhorn balances 24 class tokens over method.head.prototypes = 64"),
        ({"decoder": DECODER.model_copy(update={"heads": 5})}, "C-22: method.decoder.width 32"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        pseudomae(**changes).check(GRID, 8)
    assert str(refusal.value).startswith(message)


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({}, {"class": 24, "patch": 384}),
        ({"label_folds": 1}, {"class": 8, "patch": 384}),
        ({"sinkhorn_scope": "per_fold"}, {"class": 8, "patch": 128}),
        ({"label_mask": "unmasked", "label_folds": 1}, {"class": 8, "patch": 512}),
    ],
)
def test_the_rows_of_a_sinkhorn_call_are_counted(changes: dict[str, Any], rows: dict[str, int]) -> None:
    """A28: of 8 pictures."""
    assert pseudomae(**changes).sinkhorn_rows(PATCHES, 8) == rows

"""LoMaR's windows, its relative positions and its loss: oracle 52."""

import math

import numpy as np
import pytest
import torch

from equations import formulas
from equations.tiny import (
    DEPTH,
    GRID,
    HEADS,
    IMAGE,
    PATCH,
    START,
    WIDTH,
    batch,
    build,
    disturbed,
    gradients,
    lomar,
    tiny_vit,
)
from tutelage.encoder import BackboneSettings, build_vit, encode, grid_of
from tutelage.errors import SettingsError
from tutelage.masking import windows
from tutelage.relative import NUM_BUCKETS, RelativeAttention, buckets, grid_buckets, piecewise


def window_of(key: np.ndarray, k: int, size: int) -> np.ndarray:
    """The k-th window of a picture, by two argsorts."""
    possible = GRID[0] - size + 1
    top, left = np.argsort(key[:possible])[k], np.argsort(key[possible : 2 * possible])[k]
    return np.array([(top + i) * GRID[1] + left + j for i in range(size) for j in range(size)])


def windows_of(key: np.ndarray, layout: str, size: int = 5) -> np.ndarray:
    """The 4 windows of each picture [b, 4, w]: its own, or in the code's layout what meets in a row (methods 2.4).

    There rows of pictures are laid out window by window, rows of the first picture's windows picture by picture.
    """
    if layout == "correct":
        return np.array([[window_of(own, k, size) for k in range(4)] for own in key])
    pictures = [i for _ in range(4) for i in range(len(key))]
    numbers = [k for _ in range(len(key)) for k in range(4)]
    met = [[k for i, k in zip(pictures, numbers, strict=True) if i == picture] for picture in range(len(key))]
    return np.array([[window_of(key[0], k, size) for k in row] for row in met])


@pytest.mark.parametrize(("norm_pix", "layout"), [(True, "correct"), (False, "correct"), (True, "code")])
def test_lomar_loss_equals_the_papers_formula_on_shared_weights(norm_pix: bool, layout: str) -> None:
    method = build(lomar(norm_pix=norm_pix, layout=layout), positions="relative")
    data = batch(method)
    (x,), keys = data["train"].views, data["train"].keys
    w, predict = formulas.weights_of(method.student), formulas.weights_of(method.predict)
    token = method.mask_token.detach().numpy()[0]
    places, errors = windows_of(keys[0].numpy(), layout), []
    for i, picture in enumerate(x.numpy()):
        t = formulas.patches(picture, PATCH)
        t = formulas.standardise(t) if norm_pix else t
        for k in range(4):
            ids = places[i, k]
            hidden = np.zeros(25, dtype=bool)
            hidden[np.argsort(keys[1 + k][i].numpy()[ids])[5:]] = True  # int(25 * 0.8) = 20 are hidden
            z = formulas.encode_window(picture, ids, hidden, token, w, patch=PATCH, depth=DEPTH, heads=HEADS)
            y = z[1:] @ predict["weight"].T + predict["bias"]
            errors += [((y[j] - t[ids[j]]) ** 2).mean() for j in range(25) if hidden[j]]
    assert len(errors) == 2 * 4 * 20
    assert method(data, START).loss.item() == pytest.approx(np.mean(errors), abs=1e-10)


def test_of_a_published_window_39_of_49_patches_are_hidden() -> None:
    """Oracle 52."""
    settings = lomar(window=7, num_windows=2)
    out = build(settings, positions="relative")(batch(build(settings, positions="relative")), START)
    assert out.seen["ids_mask"].shape == (2, 39)
    assert int(out.seen["unseen"].sum()) == 2 * (64 - 49)


@pytest.mark.parametrize("grid", [(8, 8), (5, 9), (14, 14)])
def test_every_picture_has_windows_that_differ_and_lie_inside(grid: tuple[int, int]) -> None:
    """Oracle 52."""
    torch.manual_seed(0)
    ids = windows(torch.rand(50, grid[0] * grid[1]), grid, 3, 3)
    assert ids.shape == (50, 3, 9)
    rows, cols = ids // grid[1], ids % grid[1]
    assert (rows[..., 0] + 2 < grid[0]).all() and (cols[..., 0] + 2 < grid[1]).all()
    torch.testing.assert_close(rows - rows[..., :1], torch.arange(3).repeat_interleave(3).expand_as(rows))
    torch.testing.assert_close(cols - cols[..., :1], torch.arange(3).repeat(3).expand_as(cols))
    for picture in range(50):
        assert len(set(rows[picture, :, 0].tolist())) == len(set(cols[picture, :, 0].tolist())) == 3


@pytest.mark.parametrize("size", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("layout", ["correct", "code"])
def test_the_codes_layout_gives_a_picture_fewer_windows(layout: str, size: int) -> None:
    """Oracle 52: W of them, or W / gcd(B, W); and which."""
    method = build(lomar(layout=layout), positions="relative")
    keys = batch(method, b=size)["train"].keys[0]
    ids = method.windows(keys)
    np.testing.assert_array_equal(ids, windows_of(keys.numpy(), layout))
    expected = 4 if layout == "correct" else 4 // math.gcd(size, 4)
    for picture in ids:
        assert len({tuple(window.tolist()) for window in picture}) == expected


def test_hidden_pixels_cannot_change_what_is_predicted() -> None:
    method = build(lomar(num_windows=1), positions="relative")
    data = batch(method)
    before = method(data, START).seen
    (x,), keys = data["train"].views, data["train"].keys
    noisy = type(data["train"])((disturbed(x, before["ids_mask"]),), keys, data["train"].labels, data["train"].indices)
    after = method({"train": noisy}, START).seen
    torch.testing.assert_close(after["pixels"], before["pixels"], rtol=0, atol=0)
    assert not torch.equal(after["target"], before["target"])


def test_pixels_outside_its_windows_cannot_change_anything() -> None:
    method = build(lomar(num_windows=1), positions="relative")
    data = batch(method)
    before = method(data, START)
    outside = torch.stack([row.nonzero().flatten() for row in before.seen["unseen"]])
    (x,), keys = data["train"].views, data["train"].keys
    noisy = type(data["train"])((disturbed(x, outside),), keys, data["train"].labels, data["train"].indices)
    assert method({"train": noisy}, START).loss.item() == before.loss.item()


def test_mask_token_and_every_layer_learn() -> None:
    method = build(lomar(), positions="relative")
    found = gradients(method, method(batch(method), START).loss)
    expected = {name for name, p in method.named_parameters() if p.requires_grad}
    assert found.keys() == expected
    assert {"mask_token", "predict.weight", "student.blocks.0.attn.relative_positions"} <= expected


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingsError, match="window is 9, but a picture has 8x8"):
        lomar(window=9).check(GRID, 2)
    with pytest.raises(SettingsError, match="can begin in 2 rows or columns only"):
        lomar(window=7, num_windows=4).check(GRID, 2)
    lomar(window=2, mask_ratio=0.8).check(GRID, 2)  # 3 of 4 are hidden
    with pytest.raises(SettingsError, match="hides 0 of the 4 patches of a window"):
        lomar(window=2, mask_ratio=0.2).check(GRID, 2)
    with pytest.raises(SettingsError, match="hides 0 of the 1 patches of a window"):
        lomar(window=1).check(GRID, 2)


# --- relative positions -----------------------------------------------------------------------------------------------


def test_offsets_fall_into_the_published_buckets() -> None:
    """Methods 2.4: 0 and 1 exactly, 2 and 3 as 2, 4 to 13 as 3, by direction; 50 buckets with the class token's."""
    expected = {0: 0, 1: 1, 2: 2, 3: 2, **dict.fromkeys(range(4, 14), 3)}
    offsets = torch.arange(-13, 14)
    assert piecewise(offsets).tolist() == [int(np.sign(d)) * expected[abs(d)] for d in offsets.tolist()]
    pairs = grid_buckets((14, 14), torch.device("cpu"))[0]
    assert NUM_BUCKETS == 50 and set(pairs.unique().tolist()) == set(range(50))
    assert (pairs[0] == 49).all() and (pairs[:, 0] == 49).all() and (pairs[1:, 1:] < 49).all()
    for query, key in ((0, 0), (0, 15), (100, 3), (195, 0), (17, 90)):
        places = ((query // 14, query % 14), (key // 14, key % 14))
        assert pairs[1 + query, 1 + key] == formulas.bucket(*places)


def test_buckets_of_some_patches_are_those_of_the_whole_picture() -> None:
    ids = torch.stack([torch.randperm(64)[:10] for _ in range(3)])
    whole, some = grid_buckets((8, 8), torch.device("cpu"))[0], buckets(ids, 8)
    for picture, own in zip(ids, some, strict=True):
        rows = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + picture])
        assert torch.equal(own, whole[rows][:, rows])


def test_fresh_relative_positions_are_none() -> None:
    """Oracle 52: they begin at 0, which is plain attention of an encoder that knows no places, whatever its weights."""
    size = {"image_size": IMAGE, "patch_size": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS}
    fresh = build_vit(BackboneSettings(name="vit_tiny_patch16_224", positions="relative", **size), 3)
    tables = {name: table for name, table in fresh.state_dict().items() if "relative_positions" in name}
    assert len(tables) == DEPTH and not any(table.any() for table in tables.values())
    vit = tiny_vit(positions="relative")
    assert all(isinstance(block.attn, RelativeAttention) for block in vit.blocks)
    vit.load_state_dict(tables, strict=False)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    order = torch.randperm(64)
    plain = encode(vit, x, order.expand(2, -1))
    torch.testing.assert_close(plain.patches, encode(vit, x).patches[:, order], rtol=0, atol=1e-12)
    weights = {name: value for name, value in vit.state_dict().items() if "relative_positions" not in name}
    other = tiny_vit()
    assert set(other.state_dict()) - set(weights) == {"pos_embed"}
    other.load_state_dict({**weights, "pos_embed": torch.zeros(1, 65, WIDTH, dtype=torch.float64)})
    torch.testing.assert_close(encode(other, x).cls, encode(vit, x).cls, rtol=0, atol=1e-12)


def test_the_whole_picture_by_timm_by_encode_and_by_its_patches_is_one() -> None:
    vit = tiny_vit(positions="relative")
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    whole = encode(vit, x)
    torch.testing.assert_close(vit.forward_features(x), torch.cat([whole.cls, whole.patches], 1), rtol=0, atol=1e-12)
    by_ids = encode(vit, x, torch.arange(64).expand(2, -1))
    torch.testing.assert_close(by_ids.patches, whole.patches, rtol=0, atol=1e-12)
    assert grid_of(vit) == GRID


def test_relative_positions_do_not_care_where_a_window_lies() -> None:
    """The same pixels elsewhere give the same tokens."""
    vit = tiny_vit(positions="relative")
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    shifted = torch.roll(x, shifts=(2 * PATCH, PATCH), dims=(2, 3))
    here = torch.tensor([[0, 1, 2, 8, 9, 10]])
    there = here + 2 * 8 + 1
    torch.testing.assert_close(encode(vit, x, here).patches, encode(vit, shifted, there).patches, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["sincos", "learned", "relative"])
def test_a_fold_with_mask_tokens_equals_a_pass_of_its_own(positions: str) -> None:
    vit = tiny_vit(positions=positions)
    x, token = torch.randn(2, 3, 64, 64, dtype=torch.float64), torch.randn(1, 1, WIDTH, dtype=torch.float64)
    ids = torch.stack([torch.randperm(64)[:12] for _ in range(2)])
    hidden = torch.rand(2, 12) < 0.5
    both = encode(vit, x, ids, 2, hidden=hidden, mask_token=token)
    for fold in range(2):
        part = slice(6 * fold, 6 * fold + 6)
        alone = encode(vit, x, ids[:, part], hidden=hidden[:, part], mask_token=token)
        torch.testing.assert_close(both.patches[:, part], alone.patches, rtol=0, atol=1e-12)
        torch.testing.assert_close(both.cls[:, fold : fold + 1], alone.cls, rtol=0, atol=1e-12)

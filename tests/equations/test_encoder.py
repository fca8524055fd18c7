"""The sparse and folded pass, the positions, the decoder, and the models that are refused: oracles 6 to 11 and 46."""

import numpy as np
import pytest
import torch
from torch import nn

from equations import formulas
from equations.tiny import DEPTH, GRID, HEADS, PATCH, VISIBLE, disturbed, keys, mae, pictures, tiny_vit
from tutelage.decoder import Decoder, DecoderSettings
from tutelage.encoder import BackboneSettings, build_vit, check_backbone, encode, sincos_positions
from tutelage.errors import SettingsError
from tutelage.masking import random_mask
from tutelage.methods.pseudomae import PseudoMAESettings

EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.mark.parametrize(("width", "grid"), [(48, (8, 8)), (16, (3, 5)), (768, (4, 2))])
def test_positions_equal_the_closed_form(width: int, grid: tuple[int, int]) -> None:
    """Oracle 6."""
    np.testing.assert_allclose(sincos_positions(width, grid).numpy(), formulas.sincos(width, *grid), atol=1e-6)


def test_positions_of_a_student_are_fixed_and_zero_for_the_class_token() -> None:
    """Oracle 6."""
    vit = tiny_vit()
    assert not vit.pos_embed.requires_grad
    assert (vit.pos_embed[0, 0] == 0).all()
    np.testing.assert_allclose(vit.pos_embed[0].numpy(), formulas.sincos(48, 8, 8), atol=1e-6)
    assert tiny_vit(positions="learned").pos_embed.requires_grad


def test_encoder_equals_the_formula() -> None:
    vit, x = tiny_vit(), pictures()
    ids = random_mask(keys(), 0.75).ids_keep
    tokens = encode(vit, x, ids)
    for row in range(2):
        expected = formulas.encode(
            x[row].numpy(), ids[row].numpy(), formulas.weights_of(vit), patch=PATCH, depth=DEPTH, heads=HEADS
        )
        np.testing.assert_allclose(tokens.cls[row].detach(), expected[:1], **EXACT)
        np.testing.assert_allclose(tokens.patches[row].detach(), expected[1:], **EXACT)


def test_permuting_the_visible_patches_permutes_their_tokens() -> None:
    """Oracle 7."""
    vit, x, ids = tiny_vit(), pictures(), random_mask(keys(), 0.75).ids_keep
    order = torch.randperm(VISIBLE)
    straight, permuted = encode(vit, x, ids), encode(vit, x, ids[:, order])
    torch.testing.assert_close(permuted.patches, straight.patches[:, order], **EXACT)
    torch.testing.assert_close(permuted.cls, straight.cls, **EXACT)


def test_encoding_all_patches_is_timms_own_forward() -> None:
    vit, x = tiny_vit(), pictures()
    tokens = encode(vit, x)
    torch.testing.assert_close(torch.cat([tokens.cls, tokens.patches], 1), vit.forward_features(x), **EXACT)


def test_a_folded_pass_equals_a_pass_for_each_fold() -> None:
    """Oracle 8."""
    vit, x, ids = tiny_vit(), pictures(), random_mask(keys(), 0.75).ids_mask
    folded = encode(vit, x, ids, folds=3)
    assert folded.cls.shape == (2, 3, 48)
    for fold in range(3):
        rows = slice(16 * fold, 16 * (fold + 1))
        alone = encode(vit, x, ids[:, rows])
        torch.testing.assert_close(folded.patches[:, rows], alone.patches, **EXACT)
        torch.testing.assert_close(folded.cls[:, fold], alone.cls[:, 0], **EXACT)


def test_folds_differ_from_a_single_pass() -> None:
    """Oracle 8."""
    vit, x, ids = tiny_vit(), pictures(), random_mask(keys(), 0.75).ids_mask
    assert (encode(vit, x, ids, 3).patches - encode(vit, x, ids).patches).abs().max() > 1e-3


def test_a_fold_does_not_see_the_pixels_of_another() -> None:
    """Oracle 8."""
    vit, x, ids = tiny_vit(), pictures(), random_mask(keys(), 0.75).ids_mask
    before, after = encode(vit, x, ids, 3), encode(vit, disturbed(x, ids[:, 16:32]), ids, 3)
    assert torch.equal(before.patches[:, :16], after.patches[:, :16])
    assert torch.equal(before.patches[:, 32:], after.patches[:, 32:])
    assert torch.equal(before.cls[:, [0, 2]], after.cls[:, [0, 2]])
    assert (before.patches[:, 16:32] - after.patches[:, 16:32]).abs().min(-1).values.max() > 0


def test_without_drop_path_training_and_evaluation_are_equal() -> None:
    """Oracle 9."""
    vit, x = tiny_vit(), pictures()
    assert torch.equal(encode(vit.train(), x).patches, encode(vit.eval(), x).patches)
    dropping = tiny_vit(drop_path=0.5)
    assert not torch.equal(encode(dropping.train(), x).patches, encode(dropping.eval(), x).patches)


def test_drop_path_rises_linearly_over_the_blocks() -> None:
    vit = tiny_vit(drop_path=0.25, depth=4)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.25, 4), atol=1e-7)


# --- the decoder ------------------------------------------------------------------------------------------------------


def tiny_decoder(out: int = 20) -> Decoder:
    settings = DecoderSettings(width=32, depth=2, heads=4)
    decoder = Decoder(settings, width_in=48, out=out, grid=(8, 8)).double()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return decoder


def test_decoder_equals_the_formula() -> None:
    vit, decoder, x, mask = tiny_vit(), tiny_decoder(), pictures(), random_mask(keys(), 0.75)
    tokens = encode(vit, x, mask.ids_keep)
    out = decoder(tokens, mask)
    for row in range(2):
        seen = torch.cat([tokens.cls[row], tokens.patches[row]]).detach().numpy()
        keep = mask.ids_keep[row].numpy()
        weights = formulas.weights_of(decoder)
        expected = formulas.decode(seen, keep, weights, num_patches=64, depth=2, heads=4)
        np.testing.assert_allclose(out.cls[row].detach(), expected[:1], **EXACT)
        np.testing.assert_allclose(out.patches[row].detach(), expected[1:], **EXACT)


def test_decoder_adds_the_fixed_positions_of_its_own_width() -> None:
    np.testing.assert_allclose(tiny_decoder().positions.numpy(), formulas.sincos(32, 8, 8), atol=1e-6)
    assert "positions" not in dict(tiny_decoder().named_parameters())


def test_the_decoders_class_token_depends_on_visible_patches() -> None:
    """Oracle 10."""
    vit, decoder, x, mask = tiny_vit(), tiny_decoder(), pictures(), random_mask(keys(), 0.75)
    tokens = encode(vit, x, mask.ids_keep)
    other = tokens._replace(patches=tokens.patches + 0.1 * torch.randn_like(tokens.patches))
    assert (decoder(tokens, mask).cls - decoder(other, mask).cls).abs().max() > 1e-6


def test_hidden_pixels_cannot_change_what_the_student_predicts() -> None:
    """Oracle 11."""
    vit, decoder, x, mask = tiny_vit(), tiny_decoder(), pictures(), random_mask(keys(), 0.75)
    changed = disturbed(x, mask.ids_mask)
    assert (changed != x).any()
    before, after = (decoder(encode(vit, view, mask.ids_keep), mask) for view in (x, changed))
    assert torch.equal(before.patches, after.patches)
    assert torch.equal(before.cls, after.cls)


def test_visible_pixels_cannot_change_what_a_teacher_of_hidden_patches_sees() -> None:
    """Oracle 11."""
    vit, x, mask = tiny_vit(), pictures(), random_mask(keys(), 0.75)
    before, after = (encode(vit, view, mask.ids_mask, 3) for view in (x, disturbed(x, mask.ids_keep)))
    assert torch.equal(before.patches, after.patches)
    other = encode(vit, disturbed(x, mask.ids_mask), mask.ids_mask, 3)
    assert not torch.equal(before.patches, other.patches)


# --- initialisation and sizes -----------------------------------------------------------------------------------------


def test_linear_layers_begin_xavier_uniform_with_the_fused_qkv_as_one_matrix() -> None:
    """Methods 1.4."""
    settings = BackboneSettings(name="vit_tiny_patch16_224", width=192, depth=1, heads=4)
    vit = build_vit(settings, 3)
    qkv, conv = vit.blocks[0].attn.qkv, vit.patch_embed.proj
    for weight, fan in [(qkv.weight, 192 + 3 * 192), (conv.weight.flatten(1), 192 + 3 * 16 * 16)]:
        bound = np.sqrt(6 / fan)
        assert weight.abs().max() <= bound
        assert abs(weight.std().item() / (bound / np.sqrt(3)) - 1) < 0.02
    assert (qkv.bias == 0).all()
    assert (conv.bias != 0).any()
    assert (vit.norm.weight == 1).all()
    assert abs(vit.cls_token.std().item() / 0.02 - 1) < 0.2
    assert abs(mae().build(vit).decoder.mask_token.std().item() / 0.02 - 1) < 0.5


@pytest.mark.parametrize(("name", "width", "head"), [("vit_small", 384, 6.56), ("vit_base", 768, 7.34)])
def test_published_networks_have_the_published_numbers_of_parameters(name: str, width: int, head: float) -> None:
    """Oracle 46: sizes of methods 1.4, on the meta device."""
    with torch.device("meta"):
        vit = build_vit(BackboneSettings(name=f"{name}_patch16_224"), 3)
        method = PseudoMAESettings().build(vit)

    def millions(module: nn.Module, *, trainable: bool = True) -> float:
        return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable) / 1e6

    assert millions(method.head) == pytest.approx(head, abs=0.006)
    if name == "vit_base":
        assert millions(vit) == pytest.approx(85.65, abs=0.006)
        assert millions(method.decoder) == pytest.approx(26.0, abs=0.05)
        assert millions(method) == pytest.approx(119, abs=0.5)
        assert millions(method.reconstruction_teacher, trainable=False) == pytest.approx(86, abs=0.5)
        assert millions(method.labelling_teacher, trainable=False) == pytest.approx(93, abs=0.5)
    assert vit.embed_dim == width


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_base_patch16_gap_224", "it has no class token"),
        ("vit_small_patch14_reg4_dinov2", "it has register tokens"),
        ("vit_relpos_small_patch16_224", "it is a VisionTransformerRelPos, no VisionTransformer"),
        ("swin_tiny_patch4_window7_224", "it is a SwinTransformer, no VisionTransformer"),
        ("resnet18", "it is a ResNet, no VisionTransformer"),
        ("convnext_atto", "it is a ConvNeXt, no VisionTransformer"),
        ("vit_tiny_r_s16_p8_224", "its patches pass a HybridEmbed, which mixes them"),
    ],
)
def test_what_is_no_plain_vision_transformer_is_refused_by_name(name: str, reason: str) -> None:
    with torch.device("meta"), pytest.raises(SettingsError) as refusal:
        build_vit(BackboneSettings(name=name), 3)
    assert str(refusal.value).startswith(f"C-11: timm model '{name}' cannot be the backbone: {reason}.")
    assert refusal.value.exit_code == 2


def test_an_unknown_backbone_is_refused_with_known_ones() -> None:
    with pytest.raises(SettingsError, match="C-10: backbone.name 'vit_smal_patch16_224' is no timm model"):
        check_backbone(BackboneSettings(name="vit_smal_patch16_224"))


def test_a_patch_that_does_not_divide_the_picture_is_refused_with_a_size_that_works() -> None:
    settings = BackboneSettings(name="vit_tiny_patch16_224", image_size=(30, 32), patch_size=4)
    with pytest.raises(SettingsError, match="C-20: .*4 does not divide backbone.image_size 30x32") as refusal:
        check_backbone(settings)
    offered = str(refusal.value).split("image_size of ")[1].split(",")[0]
    check_backbone(settings.model_copy(update={"image_size": int(offered.rstrip("."))}))


def test_the_models_own_patch_size_is_read_from_its_name() -> None:
    with pytest.raises(SettingsError, match="C-20: backbone.patch_size 14 does not divide backbone.image_size 16"):
        check_backbone(BackboneSettings(name="vit_huge_patch14_224", image_size=16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 50}, "backbone.width 50 is no multiple of 4"),
        ({"width": 48, "heads": 5}, "backbone.heads 5 does not divide backbone.width 48"),
    ],
)
def test_a_width_that_heads_or_positions_do_not_divide_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(SettingsError, match=f"C-22: {message}"):
        check_backbone(BackboneSettings(name="vit_tiny_patch16_224", **changes))


def test_a_decoder_whose_heads_do_not_divide_its_width_is_refused() -> None:
    with pytest.raises(SettingsError, match="C-22: method.decoder.width 30"):
        mae(decoder=DecoderSettings(width=30, heads=4)).check(GRID, 2)

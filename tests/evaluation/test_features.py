import numpy as np
import pytest
import torch
from tests.evaluation.small import COLOUR, GREY, encoder, same, small_vit
from timm.layers import DropPath

from tutelage.data.index import open_data
from tutelage.encoder import encode, mean_pooled, sincos_positions
from tutelage.errors import DataError
from tutelage.evaluation.features import features, normalised, pixel_features, untrained


@pytest.fixture(scope="module")
def digits():
    return open_data("digits").train.subset(np.arange(23))


def test_features_are_the_tokens_of_the_normalised_pictures_in_order(digits):
    vit = small_vit(size=8, patch=2)
    found = features(encoder(vit), digits, batch_size=10)
    x = np.stack([digits.read(i).numpy() for i in range(23)]) / 255.0
    x = (x - GREY.mean[0]) / GREY.std[0]
    with torch.no_grad():
        tokens = encode(vit, torch.tensor(x, dtype=torch.float32))
    assert torch.allclose(found.cls, tokens.cls[:, 0], atol=1e-5)
    assert torch.allclose(found.mean, tokens.patches.mean(dim=1), atol=1e-5)
    assert found.labels.tolist() == digits.labels.tolist()
    assert found.cls.dtype == torch.float32


def test_features_neither_train_nor_change_the_encoder(digits):
    trained, said = encoder(small_vit(size=8, patch=2)), []
    expected = features(trained, digits, batch_size=1)
    trained.vit.blocks[1].drop_path2 = DropPath(0.5)
    trained.vit.train()
    found = features(trained, digits, batch_size=1, say=said.append)
    assert torch.equal(found.cls, expected.cls)
    assert trained.vit.training
    assert same(trained.vit, small_vit(size=8, patch=2))
    assert not found.cls.requires_grad
    assert len(said) == 2


def test_a_mean_that_is_normed_afterwards_is_what_the_head_would_read(digits):
    """Of a run fine-tuned as MAE's, whose norm comes after the mean of the patch tokens."""
    vit = mean_pooled(small_vit(size=8, patch=2))
    torch.nn.init.normal_(vit.fc_norm.weight)
    found = features(encoder(vit), digits)
    x = (torch.stack([digits.read(i) for i in range(23)]) / 255 - GREY.mean[0]) / GREY.std[0]
    with torch.no_grad():
        read = vit.forward_head(vit.forward_features(x), pre_logits=True)
    assert torch.allclose(found.mean, read, atol=1e-5)


def test_grey_pictures_are_repeated_for_a_colour_encoder(digits):
    grey, colour = small_vit(size=8, patch=2, seed=1), small_vit(size=8, patch=2, channels=3, seed=1)
    colour.load_state_dict(
        {**grey.state_dict(), "patch_embed.proj.weight": grey.patch_embed.proj.weight.repeat(1, 3, 1, 1) / 3}
    )
    statistics = type(GREY)(GREY.mean * 3, GREY.std * 3)
    found = features(encoder(colour, statistics), digits)
    assert found.cls.std() > 0.1
    assert torch.allclose(found.cls, features(encoder(grey), digits).cls, atol=1e-4)


def test_channels_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="D-14"):
        normalised(torch.zeros(2, 5, 8, 8, dtype=torch.uint8), COLOUR, 3)


def test_pixels_are_normalised_flat_and_at_most_32_a_side(digits):
    found = pixel_features(digits, (8, 8), GREY)
    expected = (digits.read(5).numpy().ravel() / 255.0 - GREY.mean[0]) / GREY.std[0]
    assert found.cls[5].numpy() == pytest.approx(expected, abs=1e-5)
    assert pixel_features(digits, (224, 224), GREY).cls.shape == (23, 32 * 32)
    assert pixel_features(digits, (64, 128), GREY).cls.shape == (23, 16 * 32)


def test_an_untrained_encoder_has_the_shape_and_not_the_weights():
    trained = encoder(small_vit(size=(16, 32), channels=3), COLOUR)
    fresh = untrained(trained)
    shapes = {name: tensor.shape for name, tensor in trained.vit.state_dict().items()}
    assert {name: tensor.shape for name, tensor in fresh.vit.state_dict().items()} == shapes
    assert not torch.allclose(fresh.vit.blocks[0].attn.qkv.weight, trained.vit.blocks[0].attn.qkv.weight, atol=0.01)
    assert torch.equal(fresh.vit.pos_embed[0], sincos_positions(48, (4, 8)))
    assert same(fresh.vit, untrained(trained).vit)
    assert not same(fresh.vit, untrained(trained, seed=1).vit)


def test_an_untrained_encoder_does_not_disturb_the_callers_random_numbers():
    trained = encoder(small_vit(size=8, patch=2))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    untrained(trained)
    assert torch.equal(torch.rand(4), expected)

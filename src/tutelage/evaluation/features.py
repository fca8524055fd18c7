"""What a frozen encoder says about pictures, and the two baselines that keep it honest: pixels and an untrained encoder."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tutelage.batch import Batch, normalise
from tutelage.classifiers import Classifier
from tutelage.data.decode import to_channels
from tutelage.data.index import Pictures, Statistics
from tutelage.data.reading import Unreadable
from tutelage.data.streams import eval_batches
from tutelage.encoder import create_vit, fix_positions, grid_of, initialise, is_relative
from tutelage.errors import DataError
from tutelage.export import Encoder, model_arguments

MAX_PIXEL_SIDE = 32
"""Raw pixels are compared at this many pixels a side or fewer: 224 pixels would be 150,528 numbers a picture."""
LOGITS_PASS = 64
"""Pictures a classifier takes at once."""
Say = Callable[[str], None]


class Tokens(NamedTuple):
    """Two descriptions of each picture, after the encoder's final norm; where that comes after the mean, the mean alone."""

    cls: Float[Tensor, "n d"]
    """The class token."""
    mean: Float[Tensor, "n d"]
    """The mean of the patch tokens."""


class Features(NamedTuple):
    """Tokens of pictures, float32 on the CPU, with the pictures' classes (-1 where unknown)."""

    cls: Float[Tensor, "n d"]
    mean: Float[Tensor, "n d"]
    labels: Int[Tensor, " n"]


def features(
    encoder: Encoder,
    pictures: Pictures,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Say | None = None,
) -> Features:
    """Features of each picture in its plain view, in order, in float32 and eval mode.

    `say` is told how far it is, every ten batches.
    """
    vit, training = encoder.vit.to(device), encoder.vit.training
    cls, mean, labels = [], [], []
    vit.eval()
    for batch in eval_batches(pictures, encoder.size, batch_size, workers):
        tokens = tokens_of(encoder, batch.views[0].to(device))
        cls.append(tokens.cls.cpu())
        mean.append(tokens.mean.cpu())
        labels.append(batch.labels)
        if say and len(labels) % 10 == 0:
            say(f"features  {sum(map(len, labels)):,} of {len(pictures):,} pictures")
    vit.train(training)
    return Features(torch.cat(cls), torch.cat(mean), torch.cat(labels))


@torch.no_grad()
def tokens_of(encoder: Encoder, views: Tensor) -> Tokens:
    """Class token and mean patch token of views [b, c, h, w], uint8 in 0..255 or float in 0..1, on the views' device."""
    x = normalised(views, encoder.statistics, encoder.channels)
    x = encoder.vit.forward_features(x).float()  # [b, prefix + n, d]
    mean = x[:, encoder.vit.num_prefix_tokens :].mean(dim=1)
    return Tokens(x[:, 0], encoder.vit.fc_norm(mean))  # the identity but where the norm comes after the mean


@torch.no_grad()
def logits_of(
    classifier: Classifier, pictures: Pictures, *, device: torch.device | str, workers: int, say: Say | None = None
) -> Iterator[tuple[Batch, Float[Tensor, "b classes"]]]:
    """What a classifier says of each picture in its plain view, a batch at a time, in order; its `vit` gives logits."""
    done = 0
    for batch in eval_batches(pictures, classifier.size, LOGITS_PASS, workers):
        x = normalised(batch.views[0].to(device), classifier.statistics, classifier.channels)
        yield batch, classifier.vit(x).cpu()
        done += len(batch.indices)
        if say:
            say(f"classifier  {done:,} of {len(pictures):,} pictures")


def pixel_features(
    pictures: Pictures, size: tuple[int, int], statistics: Statistics, *, batch_size: int = 1024, workers: int = 0
) -> Features:
    """The normalised pixels of each picture, flattened: the baseline that any encoder should beat.

    The plain view at `size`, made smaller (in its shape) where a side has more than 32 pixels. Both tokens are the pixels.
    """
    scale = min(1.0, MAX_PIXEL_SIDE / max(size))
    small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    found = list(eval_batches(pictures, small, batch_size, workers))
    channels = len(statistics.mean)
    x = torch.cat([normalised(batch.views[0], statistics, channels).flatten(1) for batch in found])
    return Features(x, x, torch.cat([batch.labels for batch in found]))


def untrained(encoder: Encoder, seed: int = 0) -> Encoder:
    """The same architecture with fresh weights (MAE's initialisation, sine-cosine positions): what training must beat."""
    arguments = model_arguments(encoder.vit)
    device = next(encoder.vit.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vit = create_vit(encoder.architecture, relative=is_relative(encoder.vit), **arguments)
        initialise(vit)
    if _takes_sincos(vit):
        fix_positions(vit)
    return Encoder(
        vit.to(device).eval(), encoder.statistics, encoder.size, encoder.channels, "untrained", encoder.architecture
    )


def normalised(views: Tensor, statistics: Statistics, channels: int) -> Float[Tensor, "b c h w"]:
    """Float views with as many channels as the encoder takes, of about mean 0 and deviation 1.

    Grey is repeated to colour, and colour becomes luma. Raises DataError D-14 for any other difference.
    """
    if views.shape[1] != channels:
        try:
            views = torch.stack([to_channels(view.cpu(), channels) for view in views]).to(views.device)
        except Unreadable as error:
            raise DataError(
                "D-14",
                f"the pictures have {views.shape[1]} channels, the encoder takes {channels}.",
                todo="Use other pictures.",
            ) from error
    mean, std = (torch.tensor(values, device=views.device) for values in statistics)
    return normalise(views, mean, std)


def _takes_sincos(vit: VisionTransformer) -> bool:
    """Whether its positions are those of one class token (or none) and the patches."""
    if vit.pos_embed is None or vit.embed_dim % 4:
        return False
    rows, cols = grid_of(vit)
    return bool(vit.pos_embed.shape[1] == rows * cols + (not vit.no_embed_class))

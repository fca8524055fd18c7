"""What the tokens of an encoder or a teacher tell: where they lie, which picture they are of, or what they show there.

    .venv/bin/python benchmarks/learning/tokens.py DATA ENCODER[=TEACHER] ...

A teacher's tokens of hidden patches, as a method sees them (three folds), of 1,024 held-out pictures. Their variance, summed
over channels, is shared out in order: the mean of a position over pictures; then the mean of a picture over its tokens; the
rest is what a token says of its own patch. RankMe counts the directions that the tokens use. A line of a Markdown table each.
"""

import sys

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.data.index import open_data
from tutelage.data.streams import eval_batches
from tutelage.encoder import encode, grid_of
from tutelage.evaluation.features import normalised
from tutelage.export import load_encoder
from tutelage.masking import random_mask
from tutelage.monitors import rank_me

PICTURES, FOLDS, MASK_RATIO = 1_024, 3, 0.75


@torch.no_grad()
def shares(data: str, where: str, teacher: str | None) -> list[float]:
    """Shares of position, picture and patch in the variance, and RankMe."""
    encoder = load_encoder(where, teacher=teacher)
    rows, cols = grid_of(encoder.vit)
    held_out = open_data(data).held_out
    tokens, ids = [], []
    for batch in eval_batches(held_out, encoder.size, 256, num_patches=rows * cols):
        x = normalised(batch.views[0], encoder.statistics, encoder.channels)
        mask = random_mask(batch.keys[0], MASK_RATIO)
        tokens.append(encode(encoder.vit, x, mask.ids_mask, FOLDS).patches)
        ids.append(mask.ids_mask)
        if sum(map(len, tokens)) >= PICTURES:
            break
    return [*divided(torch.cat(tokens), torch.cat(ids), rows * cols), rank_me(torch.cat(tokens)[::8].flatten(0, 1))]


def divided(x: Float[Tensor, "b n d"], ids: Int[Tensor, "b n"], positions: int) -> list[float]:
    """Shares of the variance: of the mean of a position, of what is left the mean of a picture, and the rest."""
    x = x - x.mean((0, 1))
    flat, place = x.flatten(0, 1), ids.flatten()
    count = torch.bincount(place, minlength=positions)[:, None].clamp(min=1)
    means = torch.zeros(positions, x.shape[-1]).index_add_(0, place, flat) / count
    by_position = means[ids]
    by_picture = (x - by_position).mean(1, keepdim=True).expand_as(x)
    rest = x - by_position - by_picture
    return [float(part.square().sum() / x.square().sum()) for part in (by_position, by_picture, rest)]


if __name__ == "__main__":
    print("| tokens of | position | picture | patch | RankMe |\n|---|---|---|---|---|")
    for name in sys.argv[2:]:
        where, _, teacher = name.partition("=")
        *parts, rank = shares(sys.argv[1], where, teacher or None)
        print(f"| {name} | {' | '.join(f'{100 * part:.0f} %' for part in parts)} | {rank:.1f} |")

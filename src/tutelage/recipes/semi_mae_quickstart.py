"""Semi-MAE for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6; an hour or more on two CPU cores.

    tutelage pretrain semi-mae-quickstart --data fashion-mnist --labels 250

FixMatch (see fixmatch-quickstart) with a masked autoencoder beside it, on the same encoder, which weighs as much.
Source: ours; no paper has this setting.
Expected: docs/results.md has what was measured here.
"""

from tutelage.recipes.fixmatch_quickstart import RECIPE as FIXMATCH

RECIPE = FIXMATCH.changed(
    method={"branch_weight": 1.0, "branch": {"name": "mae", "decoder": {"width": 96, "depth": 2, "heads": 3}}}
)

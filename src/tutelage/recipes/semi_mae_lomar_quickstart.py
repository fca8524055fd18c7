"""Semi-MAE with LoMaR as its branch, for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-mae-lomar-quickstart --data fashion-mnist --labels 250

As semi-mae-quickstart, with LoMaR's windows (see lomar-quickstart) in place of MAE's mask: no decoder, and relative positions.
Source: ours; no paper has this setting.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.recipes.fixmatch_quickstart import RECIPE as FIXMATCH

RECIPE = FIXMATCH.changed(
    backbone={"positions": "relative"}, method={"branch_weight": 1.0, "branch": {"name": "lomar", "window": 4}}
)

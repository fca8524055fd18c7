"""Semi-MAE with SdAE as its branch, for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-mae-sdae-quickstart --data fashion-mnist --labels 250

As semi-mae-quickstart, with a teacher's tokens for a target (see sdae-quickstart) in place of pixels.
Source: ours; no paper has this setting.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.recipes.fixmatch_quickstart import RECIPE as FIXMATCH
from tutelage.recipes.sdae_quickstart import RECIPE as SDAE

RECIPE = FIXMATCH.changed(method={"branch_weight": 1.0, "branch": SDAE.method.model_dump()})

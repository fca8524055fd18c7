"""Semi-MAE with RC-MAE as its branch, for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-mae-rc-mae-quickstart --data fashion-mnist --labels 250

As semi-mae-quickstart; what a teacher reconstructs is learned too (see rc-mae-quickstart).
Source: ours; no paper has this setting.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.recipes.fixmatch_quickstart import RECIPE as FIXMATCH
from tutelage.recipes.rc_mae_quickstart import RECIPE as RC_MAE

RECIPE = FIXMATCH.changed(method={"branch_weight": 1.0, "branch": RC_MAE.method.model_dump()})

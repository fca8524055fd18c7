"""Semi-MAE with PseudoMAE as its branch, for small pictures and few labels: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-mae-pseudomae-quickstart --data fashion-mnist --labels 250

FixMatch (see fixmatch-quickstart) with PseudoMAE (see pseudomae-quickstart) beside it, on the same encoder: two teachers, and
the network's own guesses. Half as much time again as semi-mae-quickstart.
Source: ours; nobody seems to have tried it.
Expected: docs/results.md has what was measured here.
"""

from tutelage.recipes.fixmatch_quickstart import RECIPE as FIXMATCH
from tutelage.recipes.pseudomae_quickstart import RECIPE as PSEUDOMAE

RECIPE = FIXMATCH.changed(method={"branch_weight": 1.0, "branch": PSEUDOMAE.method.model_dump()})

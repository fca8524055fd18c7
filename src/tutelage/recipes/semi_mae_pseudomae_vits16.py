"""Semi-MAE with PseudoMAE as its branch, ViT-S/16, on ImageNet-1K with a tenth of its labels.

    torchrun --nproc-per-node 8 -m tutelage pretrain semi-mae-pseudomae-vits16 --data IMAGENET --labels 10%

As semi-mae-vits16, with PseudoMAE as published in place of MAE: two teachers, and the network's own guesses.
Source: ours; nobody seems to have tried it.
Expected: nothing is known; semi-mae-vits16's 75.9 % is what it has to pass.
Not verified here.
"""

from tutelage.engine.settings import RunSettings
from tutelage.methods.pseudomae import PseudoMAESettings
from tutelage.methods.semi_mae import SemiMAESettings
from tutelage.recipes import semi_mae_vits16

RECIPE = RunSettings[SemiMAESettings[PseudoMAESettings]](
    epochs=semi_mae_vits16.RECIPE.epochs,
    batch_size=semi_mae_vits16.RECIPE.batch_size,
    normalisation="imagenet",
    backbone=semi_mae_vits16.RECIPE.backbone,
    method=SemiMAESettings[PseudoMAESettings](branch=PseudoMAESettings()),
    optim=semi_mae_vits16.RECIPE.optim,
)

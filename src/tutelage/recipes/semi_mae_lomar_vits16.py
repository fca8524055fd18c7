"""Semi-MAE with LoMaR as its branch, ViT-S/16, on ImageNet-1K with a tenth of its labels (arXiv:2301.01431, Table 3).

    torchrun --nproc-per-node 8 -m tutelage pretrain semi-mae-lomar-vits16 --data IMAGENET --labels 10%

As semi-mae-vits16, with LoMaR's windows in place of MAE's mask; the encoder has LoMaR's relative positions.
Source: Table 3; the paper says no more of it than its number.
Expected: ImageNet-1K top-1 76.0 % of the classifier (Table 3).
Not verified here.
"""

from tutelage.engine.settings import RunSettings
from tutelage.methods.lomar import LoMaRSettings
from tutelage.methods.semi_mae import SemiMAESettings
from tutelage.recipes import semi_mae_vits16

RECIPE = RunSettings[SemiMAESettings[LoMaRSettings]](
    epochs=semi_mae_vits16.RECIPE.epochs,
    batch_size=semi_mae_vits16.RECIPE.batch_size,
    normalisation="imagenet",
    backbone=semi_mae_vits16.RECIPE.backbone.model_copy(update={"positions": "relative"}),
    method=SemiMAESettings[LoMaRSettings](branch=LoMaRSettings()),
    optim=semi_mae_vits16.RECIPE.optim,
)

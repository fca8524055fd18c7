"""MAE pre-pretraining, then weak supervision by hashtags, ViT-H/14 (Singh et al., ICCV 2023, arXiv:2303.13496; MAWS).

    torchrun --nproc-per-node 8 -m tutelage pretrain pre-pretraining-vith14 --data PHOTOS --tags TAGS.csv --micro-batch 64

One epoch of 3 billion pictures each; of fewer pictures take more --epochs and --first-epochs.
Source: the paper for the two runs, one epoch each, mask 0.75 and the models. For the rest it points to MAE and SWAG (Singh et
al., CVPR 2022), after which these are set, unchecked: AdamW (0.9, 0.95), batch 8192, lr 4e-4, weight decay 0.1, warm-up 5 %,
cosine to 0, crops and flips; pictures of rare hashtags more often.
Expected: on ImageNet-1K 87.5 % linear at 224 px and 89.5 % fine-tuned at 512 or 518 px, from 3 billion pictures of Instagram,
which nobody else has. Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.weakly_supervised import WeaklySupervisedSettings

RECIPE = RunSettings[WeaklySupervisedSettings](
    first="mae-vith14",
    first_epochs=1,
    epochs=1,
    batch_size=8192,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_huge_patch14_224"),
    method=WeaklySupervisedSettings(oversample=1e-4),
    optim=OptimSettings(base_lr=4e-4 * 256 / 8192, warmup_epochs=0.05, weight_decay=0.1),
)

"""MAE pre-pretraining, then weak supervision by hashtags, ViT-L/16 (Singh et al., ICCV 2023, arXiv:2303.13496; MAWS).

    torchrun --nproc-per-node 8 -m tutelage pretrain pre-pretraining-vitl16 --data PHOTOS --tags TAGS.csv --micro-batch 64

The first run is mae-vitl16's but for its length: batch 4096, weight decay 0.05, its warm-up of 40 epochs cut to 20 % of the
run. The numbers below are the second's, and so are --epochs and --steps; --first-epochs is the first's.
Source: the paper for the two runs, one epoch of 3 billion pictures each, mask 0.75 and the models. For the rest it points to
MAE and SWAG (Singh et al., CVPR 2022), after which the second is set, unchecked: AdamW (0.9, 0.95), batch 8192, lr 4e-4,
weight decay 0.1, warm-up 5 % of the run, cosine to 0, flips; pictures of rare hashtags more often. Crops are MAE's, of 20 to
100 %. Names and tags are held in memory, some 2 KB a picture: millions of pictures, not 3 billion. Of fewer take more epochs.
Expected: on ImageNet-1K 86.1 % linear at 224 px and 88.8 % fine-tuned at 512 or 518 px, from 3 billion pictures of Instagram,
which nobody else has. Not verified here.
"""

from tutelage.recipes.pre_pretraining_vitb16 import RECIPE as VIT_B

RECIPE = VIT_B.changed(first="mae-vitl16", backbone={"name": "vit_large_patch16_224"})

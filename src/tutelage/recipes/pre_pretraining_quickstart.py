"""Masked pretraining, then hashtags, for small pictures: two runs by one command. 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain pre-pretraining-quickstart --data photos --tags tags.csv

The first run is mae-quickstart's, in RUN/first, with --first-epochs; --first names another recipe (pseudomae-quickstart). The
second begins with its encoder and learns from tags as weakly-supervised-quickstart does; --epochs and --steps are its own. The
same command goes on in either.
Source: the two stages are those of MAE pre-pretraining (Singh et al., ICCV 2023); the settings are ours, for a first try.
Expected: not measured yet. Not verified here.
"""

from tutelage.recipes.weakly_supervised_quickstart import RECIPE as WEAKLY_SUPERVISED

RECIPE = WEAKLY_SUPERVISED.model_copy(update={"first": "mae-quickstart"})

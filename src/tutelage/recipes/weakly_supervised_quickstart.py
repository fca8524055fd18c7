"""Weakly supervised, from hashtags, for small pictures: 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain weakly-supervised-quickstart --data photos --tags tags.csv

tags.csv has the columns path and tags (or caption); without --tags each photo.jpg has a photo.json beside it. Needs WordNet:
Debian's wordnet-base, nltk's, or the network. The other quick-starts' encoder, pictures, batch, views and learning rate; the
supervised one's weight decay and drop path.
Source: ours, for a first try; no paper has this setting.
Expected: not measured yet. Not verified here.
"""

from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.weakly_supervised import WeaklySupervisedSettings

RECIPE = RunSettings[WeaklySupervisedSettings](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(
        name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4, drop_path=0.1
    ),
    method=WeaklySupervisedSettings(),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1, weight_decay=0.05),
)

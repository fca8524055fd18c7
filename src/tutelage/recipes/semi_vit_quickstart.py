"""Semi-ViT for small pictures and few labels (Cai et al., NeurIPS 2022, arXiv:2208.05688): 32 px, patch 4, a ViT of 128 x 6.

    tutelage pretrain semi-vit-quickstart --data fashion-mnist --labels 250 --init FINETUNED

FixMatch whose labels an averaged teacher guesses; strong views are mixed in pairs, the surer one more. Meant to go on from an
encoder that was pretrained and fine-tuned with the few labels. Ratio 5, threshold 0.5, smoothing 0.1 and the mean of the patch
tokens are its code's for a tenth of ImageNet's labels; momentum 0.996 instead of 0.9999, the weight of the guesses 1 instead of
5, and no layer decay, are ours for short runs.
Source: its code (amazon-science/semi-vit, read for facts); the rest ours.
Expected: docs/results.md has what was measured here, if anything was.
"""

from tutelage.clock import CosineMomentum
from tutelage.data.strong import StrongView
from tutelage.data.views import SimpleView, ViewsSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.semi_mae import SemiMAESettings
from tutelage.teacher import TeacherSettings

RECIPE = RunSettings[SemiMAESettings[MAESettings]](
    epochs=10,
    batch_size=60,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=SemiMAESettings[MAESettings](
        unlabelled_weight=1.0,
        unlabelled_ratio=5,
        threshold=0.5,
        label_smoothing=0.1,
        mixing="probabilistic",
        pool="avg",
        teacher=TeacherSettings(every="step", momentum=CosineMomentum(start=0.996, end=0.996)),
        guesses_by="teacher",
        hands_on="teacher",
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
    views=ViewsSettings(weak=SimpleView(scale=(0.5, 1.0)), strong=StrongView(scale=(0.5, 1.0))),
)

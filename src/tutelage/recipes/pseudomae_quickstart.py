"""PseudoMAE for small pictures: 32 px, patch 4, a ViT of 128 x 6; minutes to an hour on two CPU cores.

    tutelage pretrain pseudomae-quickstart --data fashion-mnist --epochs 2

16 of 64 patches are visible. Smaller pictures are resized. Six settings differ from the published ones, each because a
short run on small pictures learns less without it (docs/results.md has the rows, docs/methods/pseudomae.md the reasons):
the target is standardised per picture, as per token it is largely place; labels are made at a temperature of 0.02 and heads
are batch-normalised, as at 0.07 labels go flat; the class label is learned by the encoder's class token; the patch loss is
matched in the target's space, else it collapses onto hubs; and the label losses weigh 0.1 and 0.01, as at 1 most of what is
learned is labels, which in a short run say more of the crop than of the picture. The reconstruction teacher moves
every 300th of the run; the labelling teacher's momentum begins at 0.9, the floor of the small-data rule
max(0.9, 2^(-3000/T)) for runs of up to 20,000 steps T.
Source: ours, for a first try; no paper has this setting.
Expected: level with sdae-quickstart on fashion-mnist and above it on glyphs, at half as much time again (docs/results.md).
"""

from tutelage.clock import CosineMomentum, LinearRamp
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.heads import HeadSettings
from tutelage.methods.pseudomae import PseudoMAESettings
from tutelage.teacher import TeacherSettings

RECIPE = RunSettings[PseudoMAESettings](
    epochs=10,
    batch_size=64,
    backbone=BackboneSettings(name="vit_tiny_patch16_224", image_size=32, patch_size=4, width=128, depth=6, heads=4),
    method=PseudoMAESettings(
        target_norm="picture",
        decoder=DecoderSettings(width=96, depth=2, heads=3),
        head=HeadSettings(prototypes=128, hidden=256, bottleneck=64, share="separate", in_norm="batch"),
        class_source="encoder",
        teacher_temperature=LinearRamp(start=0.02, end=0.02, epochs=0),
        match_norm="picture",
        class_weight=0.1,
        patch_weight=0.01,
        reconstruction_teacher=TeacherSettings(every="run/300", momentum=CosineMomentum(start=0.96, end=0.99)),
        labelling_teacher=TeacherSettings(every="step", momentum=CosineMomentum(start=0.9, end=1.0)),
    ),
    optim=OptimSettings(base_lr=4e-3, warmup_epochs=1),
)

"""RC-MAE, ViT-B/16, with the momentum that its published code computes.

    torchrun --nproc-per-node 8 -m tutelage pretrain rc-mae-vitb16-code --data IMAGENET --micro-batch 64

Source: as rc-mae-vitb16.
Differs from it: the momentum is looked up by the step within the epoch, in a cosine as long as the run, so it stays at its
start; and the teacher moves with each of the two micro-batches of a step, twice by 0.996, which is once by 0.992
(docs/methods/rc_mae.md).
Expected: as rc-mae-vitb16; the published numbers were made by this code.
Not verified here.
"""

from tutelage.clock import CosineMomentum
from tutelage.encoder import BackboneSettings
from tutelage.engine.settings import OptimSettings, RunSettings
from tutelage.methods.rc_mae import RCMAESettings
from tutelage.teacher import TeacherSettings

RECIPE = RunSettings[RCMAESettings](
    epochs=800,
    batch_size=4096,
    normalisation="imagenet",
    backbone=BackboneSettings(name="vit_base_patch16_224"),
    method=RCMAESettings(
        consistency_teacher=TeacherSettings(
            every="step", momentum=CosineMomentum(start=0.996**2, end=1.0), schedule="epoch"
        )
    ),
    optim=OptimSettings(base_lr=1.5e-4, warmup_epochs=40),
)

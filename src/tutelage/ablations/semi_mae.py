"""Semi-MAE's tables 1 to 3 (arXiv:2301.01431), as far as the systems exist here."""

from tutelage.ablations import DECODER, SIZE, Base, Changes, Row, Scale, Table
from tutelage.config import merged

LABELS: Changes = {"labels": "10%"}
FEW: Changes = {"labels": "250"}
SMALL = Base("semi-mae-quickstart", merged(SIZE, FEW, {"method": {"branch": DECODER}}))
VITS = Base("semi-mae-vits16", LABELS)
NO_BRANCH = Base("fixmatch-quickstart", merged(SIZE, FEW))
AS_OTHERS: Changes = {"backbone": {"drop_path": 0.0}, "views": {"simple": {"scale": (0.5, 1.0)}}}
"""What the quick-start of supervised training has differently from the others."""
SEMIFORMER: dict[Scale, Base] = {
    "mini": Base("semiformer-quickstart", merged(SIZE, FEW, {"method": {"conv": "resnet10t"}})),
    "full": Base("semiformer-vits16", LABELS),
}
TOP_1 = "ImageNet-1K top-1 of the classifier, 10 % of the labels"

TABLES = {
    "table-1": Table(
        "beside other semi-supervised methods",
        "arXiv:2301.01431, Table 1",
        TOP_1,
        {"mini": SMALL, "full": VITS},
        (
            Row("default", paper=75.9),
            Row(
                "no masked branch (FixMatch)",
                bases={"mini": NO_BRANCH, "full": VITS.changed({"method": {"branch": None}})},
            ),
            Row(
                "labels only (supervised)",
                bases={
                    "mini": Base("supervised-quickstart", merged(SIZE, FEW, AS_OTHERS)),
                    "full": VITS.changed({"method": {"branch": None, "unlabelled_weight": 0.0}}),
                },
            ),
            Row("UDA, ResNet-50", paper=68.8, quoted=True),
            Row("FixMatch, ResNet-50", paper=71.5, quoted=True),
            Row("S4L, ResNet-50 (4x)", paper=73.2, quoted=True),
            Row("MPL, ResNet-50", paper=73.9, quoted=True),
            Row("CowMix, ResNet-50", paper=73.9, quoted=True),
            Row("Semiformer, ViT-S and ResNet-50", paper=75.5, bases=SEMIFORMER),
        ),
        judged_by="classifier",
        note="At the mini scale 250 labels are known, and Semiformer's convolutional stream is timm's resnet10t.",
    ),
    "table-2": Table(
        "the masked branch in Semiformer",
        "arXiv:2301.01431, Table 2",
        TOP_1,
        SEMIFORMER,
        (
            Row("default", paper=75.5),
            Row(
                "with the masked branch",
                paper=76.4,
                bases={
                    "mini": Base(
                        "semiformer-mae-quickstart",
                        merged(SIZE, FEW, {"method": {"conv": "resnet10t", "branch": DECODER}}),
                    ),
                    "full": Base("semiformer-mae-vits16", LABELS),
                },
            ),
            Row("Semi-MAE", paper=75.9, bases={"mini": SMALL, "full": VITS}),
        ),
        judged_by="classifier",
        note="The last row is Table 1's. "
        "At the mini scale 250 labels are known, and Semiformer's convolutional stream is timm's resnet10t.",
    ),
    "table-3": Table(
        "the masked branch's method",
        "arXiv:2301.01431, Table 3",
        TOP_1,
        {"mini": SMALL, "full": VITS},
        (
            Row("default", paper=75.9),
            Row(
                "LoMaR",
                paper=76.0,
                bases={
                    "mini": Base("semi-mae-lomar-quickstart", merged(SIZE, FEW, {"method": {"branch": {"window": 3}}})),
                    "full": Base("semi-mae-lomar-vits16", LABELS),
                },
            ),
            Row(
                "PseudoMAE (ours)",
                bases={
                    "mini": Base("semi-mae-pseudomae-quickstart", merged(SIZE, FEW, {"method": {"branch": DECODER}})),
                    "full": Base("semi-mae-pseudomae-vits16", LABELS),
                },
            ),
        ),
        judged_by="classifier",
        note="At the mini scale 250 labels are known.",
    ),
}

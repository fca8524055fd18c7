"""PseudoMAE's tables 6 to 9 (arXiv:2406.17450, section 5), and the questions that they leave open."""

from tutelage.ablations import MINI, Base, Changes, Row, Table

SMALL = Base("pseudomae-quickstart", MINI)
VITS = Base("pseudomae-vits16")
VITB = Base("pseudomae-vitb16")
TOP_1 = "ImageNet-1K top-1, ViT-S/16, 100 epochs and 50 of fine-tuning"

NO_LABELS: Changes = {"method": {"class_weight": 0.0, "patch_weight": 0.0}}
STILL: Changes = {"every": "step", "momentum": {"start": 1.0, "end": 1.0}}
FOLLOWS_AT_ONCE: Changes = {"every": "step", "momentum": {"start": 0.0, "end": 0.0}}
SIMPLE: Changes = {
    "scale": (0.2, 1.0), "jitter": 0.0, "grey": 0.0, "blur": (0.0, 0.0), "solarise": (0.0, 0.0),
}  # fmt: skip


def _labelling(start: float) -> Changes:
    return {"method": {"labelling_teacher": {"momentum": {"start": start, "end": 1.0}}}}


def _single(every: str, start: float, end: float) -> Changes:
    teacher = {"every": every, "momentum": {"start": start, "end": end}}
    return {"method": {"teacher_mode": "single", "labelling_teacher": teacher}}


TABLES = {
    "table-6": Table(
        "one teacher or two, and how often they move",
        "arXiv:2406.17450, Table 6",
        TOP_1,
        {"mini": SMALL, "full": VITS},
        (
            Row("default", paper=74.8),
            Row("no labels (SdAE)", NO_LABELS, 74.19),
            Row(
                "pixels, no teacher (MAE)",
                bases={
                    "mini": Base("mae-quickstart", MINI),
                    "full": Base("mae-vitb16", {"epochs": 100, "backbone": {"name": "vit_small_patch16_224"}}),
                },
            ),
            Row(
                "one teacher, each step",
                paper=73.5,
                bases={
                    "mini": SMALL.changed(_single("step", 0.9, 1.0)),
                    "full": VITS.changed(_single("step", 0.996, 1.0)),
                },
            ),
            Row(
                "one teacher, each epoch",
                paper=74.3,
                bases={
                    "mini": SMALL.changed(_single("run/300", 0.96, 0.99)),
                    "full": VITS.changed(_single("epoch", 0.96, 0.99)),
                },
            ),
        ),
        finetuned="finetune-vits16",
        note="The paper's times and memory are of ViT-B: MAE 12.7 days (1600 epochs) and 10 G, SdAE 2.5 and 11.2, "
        "one teacher 2.9 and 12, two 3.2 and 14.5. "
        "At the full scale MAE has its own batch, learning rate and warm-up, and no drop path.",
    ),
    "table-7": Table(
        "the labelling teacher's momentum",
        "arXiv:2406.17450, Table 7",
        TOP_1,
        {"mini": SMALL, "full": VITS},
        (
            Row("default", paper=74.8),
            Row(
                "ten times as fast",
                paper=73.6,
                bases={"mini": SMALL.changed(_labelling(0.9**10)), "full": VITS.changed(_labelling(0.96))},
            ),
        ),
        finetuned="finetune-vits16",
        note="From 0.996 by default, and from 0.96; at the mini scale from 0.9, and from 0.9^10 = 0.35, as much faster.",
    ),
    "table-8": Table(
        "which losses",
        "arXiv:2406.17450, Table 8",
        TOP_1,
        {"mini": SMALL, "full": VITS},
        (
            Row("default", paper=74.82),
            Row("reconstruction only (SdAE)", NO_LABELS, 74.19),
            Row("reconstruction and patch labels", {"method": {"class_weight": 0.0}}, 73.20),
            Row("reconstruction and class labels", {"method": {"patch_weight": 0.0}}, 74.23),
            Row("labels only", {"method": {"reconstruction_weight": 0.0}}, 74.09),
        ),
        finetuned="finetune-vits16",
        note="The order of the paper's columns is inferred from where its zeros stand.",
    ),
    "table-9": Table(
        "folds and augmentation of the labels",
        "arXiv:2406.17450, Table 9",
        "which is better, in the words of its text; ViT-B/16, 300 epochs and 100 of fine-tuning",
        {"mini": SMALL, "full": VITB},
        (
            Row("default"),
            Row(
                "labels of one fold",
                {"method": {"label_folds": 1}},
                claim="worse",
                bases={"mini": SMALL, "full": VITB.changed({"method": {"head": {"prototypes": 1536}}})},
            ),
            Row("labels of a simple view", {"views": {"complex": SIMPLE}}, claim="worse"),
        ),
        finetuned="finetune-vitb16",
        note="At the full scale labels of one fold have 1,536 prototypes: 768 class tokens say too little about 4,096.",
    ),
    "isolate": Table(
        "what each part is worth",
        "ours: what the paper's tables leave open",
        "no number: nobody has asked",
        {"mini": SMALL, "full": VITS},
        (
            Row("default"),
            Row("no labelling teacher (SdAE)", NO_LABELS),
            Row("no reconstruction teacher: pixels", {"method": {"reconstruction_target": "pixels"}}),
            Row("reconstruction teacher stands still", {"method": {"reconstruction_teacher": STILL}}),
            Row("labelling teacher stands still", {"method": {"labelling_teacher": STILL}}),
            Row("reconstruction teacher is the student", {"method": {"reconstruction_teacher": FOLLOWS_AT_ONCE}}),
            Row("labelling teacher is the student", {"method": {"labelling_teacher": FOLLOWS_AT_ONCE}}),
            Row("labels without discretisation", {"method": {"assignment": "none"}}),
            Row("centring instead of Sinkhorn", {"method": {"assignment": "centring"}}),
            Row("a softmax instead of Sinkhorn", {"method": {"sinkhorn_iterations": 0}}),
            Row(
                "half of the patches hidden",
                {"method": {"mask_ratio": 0.5}},
                bases={
                    "mini": SMALL,
                    "full": VITS.changed({"method": {"folds": 2, "label_folds": 2, "head": {"prototypes": 3072}}}),
                },
            ),
            Row("nine tenths of the patches hidden", {"method": {"mask_ratio": 0.9}}),
            Row("a tenth of the pictures", {"share": 0.1}),
            Row("a hundredth of the pictures", {"share": 0.01}),
        ),
        finetuned="finetune-vits16",
        note="At the full scale half of the patches are in two folds, as three do not divide them, with 3,072 prototypes; "
        "and fewer pictures are seen for as many epochs, so in fewer steps. At the mini scale as many are seen in every row.",
    ),
}

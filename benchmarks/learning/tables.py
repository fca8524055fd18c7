"""What is run: each table is a list of rows, each row a recipe with changes, for some pictures seen and some seeds."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tutelage.ablations import DECODER
from tutelage.ablations import MINI as SMALL
from tutelage.ablations import SIZE as ENCODER
from tutelage.ablations.semi_mae import AS_OTHERS
from tutelage.config import merged

Data = Literal["fashion-mnist", "glyphs", "stamps"]


@dataclass(frozen=True)
class Row:
    """One kind of run; `name` tells it from the others of its table."""

    name: str
    recipe: str
    data: Data = "fashion-mnist"
    pictures: int = 300_000
    """Pictures seen; the schedules end there."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe that are set differently, nested."""
    curve: bool = False
    """Judge the encoder at each quarter of the run too."""
    judge: Literal["encoder", "classifier", "segmentation", "detection", "robustness", "nothing"] = "encoder"
    """What to judge: the encoder, what the run trains, or nothing, as where only speed is asked."""
    init: str = ""
    """Start from the encoder of the run with this key and the same seed, a row of a table that was run before."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tags: bool = False
    """Learn from the tags of hashtags.py."""
    of: str = ""
    """The table whose run it is, where another table shows it again."""


def name_of(table: str, row: Row) -> str:
    """What the keys of a row's lines begin with."""
    return f"{row.of or table}/{row.data}/{row.name}/".replace(" ", "-")


NO_FLIP: dict[str, Any] = {"views": {"simple": {"flip": 0.0}, "complex": {"flip": 0.0}}}
"""A mirrored letter is another letter, or none."""

SETS: dict[Data, dict[str, Any]] = {"fashion-mnist": {}, "glyphs": NO_FLIP}
"""What a data set changes in every recipe."""

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("supervised-quickstart", ENCODER),
    "MAE": ("mae-quickstart", SMALL),
    "SdAE": ("sdae-quickstart", SMALL),
    "PseudoMAE": ("pseudomae-quickstart", SMALL),
}
"""The quick-starts at the small size."""

TRIALS: dict[str, dict[str, Any]] = {
    "0.001": {"optim": {"base_lr": 1e-3}, "batch_size": 256},
    "0.002": {"optim": {"base_lr": 2e-3}, "batch_size": 256},
    "0.004": {"optim": {"base_lr": 4e-3}, "batch_size": 256},
    "batch 64": {"optim": {"base_lr": 4e-3}, "batch_size": 64},
}
"""What is tried of every method: learning rates for batches of 256, and a batch of 64 that learns at 0.001 too."""


def _causes() -> list[Row]:
    """What takes the label branch and the token target apart, a change at a time, at the small size."""
    sdae, pseudomae = "sdae-quickstart", "pseudomae-quickstart"
    size = merged(SMALL, TRIALS["0.001"])
    published = {  # all but the target, which every row of PseudoMAE has per picture
        "head": {"prototypes": 128, "in_norm": "none", "share": "shared"},
        "class_source": "decoder",
        "teacher_temperature": {"start": 0.04, "end": 0.07, "epochs": 30},
        "match_norm": "none",
        "class_weight": 1.0,
        "patch_weight": 1.0,
    }
    sharp = {"teacher_temperature": {"start": 0.02, "end": 0.02}}
    batch = {"head": {"in_norm": "batch"}}
    apart = {"class_source": "encoder", "head": {"share": "separate"}}
    class_only = {"patch_weight": 0.0}
    gentle = {"patch_weight": 0.1, "match_norm": "picture"}
    token, code = {"target_norm": "token"}, {"target_norm": "token", "cos_axis": "token"}
    rows = {
        "untrained": ("mae-quickstart", [], 0),
        "MAE": ("mae-quickstart", [], 100_000),
        "SdAE, target per token (published)": (sdae, [token], 100_000),
        "SdAE, target per token, cosine over tokens (its code)": (sdae, [code], 100_000),
        "SdAE, target over the batch": (sdae, [{"target_norm": "batch"}], 100_000),
        "SdAE, target per picture": (sdae, [{"target_norm": "picture"}], 100_000),
        "PseudoMAE, labels as published": (pseudomae, [published], 100_000),
        "... class labels only": (pseudomae, [published, class_only], 100_000),
        "... class only, heads batch-normalised": (pseudomae, [published, class_only, batch], 100_000),
        "... class only, labels at 0.02": (pseudomae, [published, class_only, sharp], 100_000),
        "... class only, both": (pseudomae, [published, class_only, batch, sharp], 100_000),
        "... class only, both, encoder's class token": (pseudomae, [published, class_only, batch, sharp, apart], 100_000),
        "... these, and patch labels as published": (pseudomae, [published, batch, sharp, apart], 100_000),
        "... these, patch labels at 0.1 matched in the target's space": (
            pseudomae, [published, batch, sharp, apart, gentle], 100_000,
        ),
    }  # fmt: skip
    return [
        Row(name, recipe, pictures=pictures, changes=merged(size, *({"method": change} for change in changes)))
        for name, (recipe, changes, pictures) in rows.items()
    ]


def _later() -> list[Row]:
    """Whether labels help once features are good: from SdAE's encoder after 100,000 pictures, 100,000 more."""
    by_name = {row.name: row for row in _causes()}
    first = name_of("causes", by_name["SdAE, target per picture"])
    names = {
        "SdAE, on from SdAE": "SdAE, target per picture",
        "PseudoMAE, class labels, on from SdAE": "... class only, both, encoder's class token",
        "PseudoMAE, class and patch labels, on from SdAE": (
            "... these, patch labels at 0.1 matched in the target's space"
        ),
    }
    return [
        Row(name, by_name[of].recipe, pictures=100_000, changes=by_name[of].changes, init=first)
        for name, of in names.items()
    ]


def _tuning() -> list[Row]:
    """The same four trials for each method and set, by one seed: three learning rates, and a quarter of the batch."""
    heavy = {"PseudoMAE, labels at full weight": ("pseudomae-quickstart", merged(SMALL, _weighing(1.0, 0.1)))}
    return [
        Row(f"{method}, {name}", recipe, data, 100_000, merged(size, flip, trial), seeds=(100,))
        for data, flip in SETS.items()
        for name, trial in TRIALS.items()
        for method, (recipe, size) in (METHODS | heavy).items()
    ]


def _weights() -> list[Row]:
    """What labels cost or bring by how much of the loss they are."""
    weights = {
        "no labels (SdAE)": None, "class 0.1": (0.1, 0.0), "class 0.3": (0.3, 0.0), "class 1": (1.0, 0.0),
        "class 0.1, patch 0.01 (the quick-start)": (0.1, 0.01), "class 0.1, patch 0.1": (0.1, 0.1),
    }  # fmt: skip
    return [
        Row(name, "pseudomae-quickstart", pictures=100_000, changes=merged(SMALL, _weighing(*pair)))
        if pair
        else Row(name, "sdae-quickstart", pictures=100_000, changes=SMALL)
        for name, pair in weights.items()
    ]


def _weighing(classes: float, patches: float) -> dict[str, Any]:
    return {"method": {"class_weight": classes, "patch_weight": patches}}


def _sizes() -> list[Row]:
    """As many pictures seen, of ever fewer different ones; the encoder is judged with the labels of the whole set."""
    return [
        Row(f"{method}, {100 * share:g} %", recipe, pictures=100_000, changes=merged(size, {"share": share}))
        for share in (1.0, 0.1, 0.01)
        for method, (recipe, size) in METHODS.items()
        if method != "supervised"
    ]


def _speed() -> list[Row]:
    """Short runs in turn, for how many pictures a second each method trains on; nothing else happens in them."""
    still = {"monitors": 0}
    return [
        Row(method, recipe, pictures=10_240, changes=merged(size, still), judge="nothing", seeds=(0, 1, 2, 3, 4))
        for method, (recipe, size) in METHODS.items()
    ]


def _core() -> list[Row]:
    """The quick-starts, which are as tuned, beside the untrained encoder and raw pixels, at equal pictures seen."""
    return [
        row
        for data, changes in SETS.items()
        for row in (
            Row("untrained", "mae-quickstart", data, 0, merged(SMALL, changes)),
            *(
                Row(method, recipe, data, changes=merged(size, changes), curve=True)
                for method, (recipe, size) in METHODS.items()
            ),
        )
    ]


def _time() -> list[Row]:
    """MAE and SdAE for as long as PseudoMAE takes over its 300,000 pictures in the core table, by the table of speeds."""
    longer = {"MAE": 650_000, "SdAE": 520_000}
    return [
        row
        for data, changes in SETS.items()
        for row in (
            *(
                Row(method, METHODS[method][0], data, pictures, merged(METHODS[method][1], changes))
                for method, pictures in longer.items()
            ),
            *(replace(row, of="core") for row in _core() if (row.data, row.name) == (data, "PseudoMAE")),
        )
    ]


def _again() -> list[Row]:
    """Three rows of the core table with other seeds: whether they come out as they did."""
    chosen = {("fashion-mnist", "MAE"), ("glyphs", "SdAE"), ("fashion-mnist", "PseudoMAE")}
    rows = [row for row in _core() if (row.data, row.name) in chosen]
    return [
        new
        for row in rows
        for new in (replace(row, of="core"), replace(row, name=f"{row.name}, new seeds", seeds=(10, 11), curve=False))
    ]


def _family() -> list[Row]:
    """RC-MAE and LoMaR as MAE in the core table, at four points; RC-MAE's teacher by mask and pace, LoMaR by its positions."""
    different, quick = {"teacher_mask": "different"}, {"consistency_teacher": {"momentum": {"start": 0.98}}}
    lomar = merged(ENCODER, {"method": {"window": 3}})
    rows: dict[str, tuple[str, dict[str, Any]]] = {
        "RC-MAE, same mask": ("rc-mae-quickstart", SMALL),
        "RC-MAE, different mask": ("rc-mae-quickstart", merged(SMALL, {"method": different})),
        "RC-MAE, same mask, momentum from 0.98": ("rc-mae-quickstart", merged(SMALL, {"method": quick})),
        "LoMaR": ("lomar-quickstart", lomar),
        "LoMaR, fixed positions": ("lomar-quickstart", merged(lomar, {"backbone": {"positions": "sincos"}})),
    }
    mae = [replace(row, of="core") for row in _core() if (row.data, row.name) == ("fashion-mnist", "MAE")]
    return [
        *mae,
        *(Row(name, recipe, changes=changes, curve=True) for name, (recipe, changes) in rows.items()),
        Row("LoMaR, untrained", "lomar-quickstart", pictures=0, changes=lomar),
    ]


FEW_LABELS = ("40", "250", "1%")
_BRANCH = merged(ENCODER, {"method": {"branch": DECODER}})
OTHER_VIT = "deit3_small_patch16_224"
"""One with layer scale, and no position for its class token."""
FEW: dict[str, tuple[str, dict[str, Any]]] = {
    "MAE": METHODS["MAE"],
    "supervised": ("supervised-quickstart", merged(ENCODER, AS_OTHERS)),
    "FixMatch": ("fixmatch-quickstart", ENCODER),
    "Semi-MAE": ("semi-mae-quickstart", _BRANCH),
    "Semi-MAE (PseudoMAE)": ("semi-mae-pseudomae-quickstart", _BRANCH),
    "Semiformer": ("semiformer-quickstart", merged(ENCODER, {"method": {"conv": "resnet10t"}})),
}
"""The quick-starts with few labels at the small size, and MAE, which one of them may begin from."""


def _few_speed() -> list[Row]:
    """As `speed`, of the methods with few labels."""
    still = {"monitors": 0}
    return [
        Row(
            method,
            recipe,
            pictures=10_240,
            changes=merged(size, still if method == "MAE" else {**still, "labels": "250"}),
            judge="nothing",
            seeds=(0, 1, 2),
        )
        for method, (recipe, size) in FEW.items()
    ]


def _few_tuning() -> list[Row]:
    """FixMatch with 250 labels: how sure a guess has to be, and how many pictures without a label come with each with one."""
    return [
        Row(
            f"threshold {tau:g}, ratio {ratio}",
            "fixmatch-quickstart",
            pictures=68_000,
            changes=merged(ENCODER, {"labels": "250", "method": {"threshold": tau, "unlabelled_ratio": ratio}}),
            judge="classifier",
            seeds=(100,),
        )
        for ratio in (1, 3, 7)
        for tau in (0.6, 0.8, 0.95)
    ]


def _few_longer() -> list[Row]:
    """Labels alone and FixMatch, for as long as in the table few, and for four times as long."""
    chosen = [row for row in _few() if row.name in ("supervised, 250", "FixMatch, 250")]
    return [
        replace(
            row,
            name=f"{row.name}, {'four times' if times == 4 else 'once'}",
            pictures=times * row.pictures,
            seeds=(100,),
        )
        for times in (1, 4)
        for row in chosen
    ]


def _few() -> list[Row]:
    """Every method for as long as Semi-MAE takes over 100,000 pictures, by the table of speeds; MAE for half of that."""
    pictures = {
        "supervised": 162_000, "FixMatch": 130_000, "Semi-MAE": 100_000, "Semi-MAE (PseudoMAE)": 75_000, "MAE": 100_000,
        "Semiformer": 37_000,
    }  # fmt: skip
    first = Row("MAE, the first half", FEW["MAE"][0], pictures=pictures["MAE"], changes=FEW["MAE"][1])
    rows = [
        Row(
            f"{method}, {labels}",
            recipe,
            "fashion-mnist",
            pictures[method],
            merged(size, {"labels": labels}, {"batch_size": 32} if (method, labels) == ("supervised", "40") else {}),
            judge="classifier",
        )
        for labels in FEW_LABELS
        for method, (recipe, size) in FEW.items()
        if method != "MAE" and (method != "Semiformer" or labels == "250")
    ]
    second = [
        replace(row, name=f"MAE, then {row.name}", pictures=row.pictures // 2, init=name_of("few", first))
        for row in rows
        if row.recipe == "semi-mae-quickstart"
    ]
    other = [
        replace(
            row, name="Semi-MAE on DeiT III's ViT, 250", changes=merged(row.changes, {"backbone": {"name": OTHER_VIT}})
        )
        for row in rows
        if row.name == "Semi-MAE, 250"
    ]
    return [first, *rows, *second, *other]


WIDTHS = {32: 2, 64: 4}
"""And so many heads."""
ALONE = {32: (3, 5), 64: (4, 4)}
"""Epochs of MAE alone, and of tags alone, that take about as long as 1 of MAE and then 3 of tags, by width.

MAE's decoder is 64 wide at both, so an epoch of it takes 1.6 to 1.9 of tags at 32, and about one at 64.
"""
EPOCH = {"MAE": 54_000, "tags": 46_000}
"""Training pictures, and those with a tag, about."""


def _hashtags() -> list[Row]:
    """MAE for 0, 0.1 and 1 epochs, then tags for 0.1, 1 and 3, at two widths; each alone for as long, and untrained."""
    rows = []
    for width, heads in WIDTHS.items():
        size = merged(ENCODER, {"backbone": {"width": width, "heads": heads}})
        mae = merged(size, {"method": {"decoder": {"width": 64, "depth": 2, "heads": 4}}})
        mae_alone, tags_alone = ALONE[width]
        first, *firsts, _ = begins = [
            Row(
                f"width {width}, MAE {before:g}" if before else f"width {width}, untrained",
                "mae-quickstart",
                pictures=round(before * EPOCH["MAE"]),
                changes=mae,
            )
            for before in (0, 0.1, 1, mae_alone)
        ]
        rows += begins
        rows += [
            Row(
                f"{begin.name if begin.pictures else f'width {width}'}, tags {after:g}",
                "weakly-supervised-quickstart",
                pictures=round(after * EPOCH["tags"]),
                changes=size,
                init=name_of("hashtags", begin) if begin.pictures else "",
                tags=True,
            )
            for begin in (first, *firsts)
            for after in ((0.1, 1, 3) if begin.pictures else (0.1, 1, 3, tags_alone))
        ]
    return rows


def _hashtags_finetuned() -> list[Row]:
    """Classifiers on from the encoders of the table hashtags, with a tenth of the labels."""
    return [
        replace(
            row,
            recipe="finetune-quickstart",
            pictures=27_000,
            changes={"backbone": row.changes["backbone"], "labels": "10%"},
            judge="classifier",
            init=name_of("hashtags", row) if row.pictures else "",
            tags=False,
        )
        for row in _hashtags()
    ]


_STAMPS: dict[str, Any] = {"backbone": {"image_size": 128, "patch_size": 16, "width": 128, "depth": 6, "heads": 4}}
_ON_STAMPS = [
    Row(method, METHODS[method][0], "stamps", 100_000, _STAMPS, judge="nothing", of="stamps")
    for method in ("MAE", "PseudoMAE")
]
"""The encoders that segmentation and detection begin from: they saw the same pictures."""


NO_DECAY: dict[str, Any] = {"optim": {"layer_decay": 1.0}}
"""From random weights every layer has as much to learn."""


def _downstream(scratch: Row) -> list[Row]:
    """A recipe on stamps, from scratch (as the recipe is, and without layer decay) and from these encoders, at equal steps."""
    freely = replace(scratch, name=f"{scratch.name}, no layer decay", changes=merged(scratch.changes, NO_DECAY))
    begun = [replace(scratch, name=f"from {row.name}", init=name_of("stamps", row)) for row in _ON_STAMPS]
    return [scratch, freely, *begun]


def _segment() -> list[Row]:
    """Segmentation of stamps, with UPerNet and with a linear head."""
    rows = _downstream(Row("from scratch", "segment-quickstart", "stamps", 16_000, judge="segmentation"))
    linear = [
        replace(row, name=f"{row.name}, linear head", changes=merged(row.changes, {"method": {"head": "linear"}}))
        for row in rows
    ]
    return [*_ON_STAMPS, *rows, *linear]


def _detect() -> list[Row]:
    """Detection of stamps with their outlines."""
    return [*_ON_STAMPS, *_downstream(Row("from scratch", "detect-quickstart", "stamps", 12_000, judge="detection"))]


def _whole() -> dict[str, str]:
    """Where the encoders of the table sizes are that saw pictures of the whole set, by method."""
    return {row.name.partition(",")[0]: name_of("sizes", row) for row in _sizes() if row.name.endswith(", 100 %")}


def _finetune() -> list[Row]:
    """Classifiers of Fashion-MNIST with all, a tenth and a hundredth of the labels, on from encoders of the table sizes."""
    pictures = {"": 108_000, "10%": 54_000, "1%": 27_000}  # two passes, ten, fifty
    begun: dict[str, tuple[str, dict[str, Any]]] = {
        "from scratch": ("", {}),
        "from scratch, no layer decay": ("", NO_DECAY),
        "from MAE": (_whole()["MAE"], {}),
        "from PseudoMAE": (_whole()["PseudoMAE"], {}),
    }
    return [
        Row(
            f"{name}, {labels or '100%'}",
            "finetune-quickstart",
            "fashion-mnist",
            seen,
            merged(ENCODER, changes, {"labels": labels} if labels else {}),
            judge="classifier",
            init=init,
        )
        for labels, seen in pictures.items()
        for name, (init, changes) in begun.items()
    ]


def _robustness() -> list[Row]:
    """Encoders of the table sizes, and untrained ones, on corrupted pictures."""
    untrained = Row("untrained", METHODS["MAE"][0], pictures=0, changes=METHODS["MAE"][1], judge="robustness")
    return [
        untrained,
        *(
            replace(untrained, name=method, recipe=METHODS[method][0], changes=METHODS[method][1], init=init)
            for method, init in _whole().items()
        ),
    ]


TABLES = {
    "causes": _causes(),
    "later": _later(),
    "tuning": _tuning(),
    "weights": _weights(),
    "sizes": _sizes(),
    "speed": _speed(),
    "core": _core(),
    "time": _time(),
    "again": _again(),
    "family": _family(),
    "finetune": _finetune(),
    "robustness": _robustness(),
    "segment": _segment(),
    "detect": _detect(),
    "few-speed": _few_speed(),
    "few-tuning": _few_tuning(),
    "few": _few(),
    "few-longer": _few_longer(),
    "hashtags": _hashtags(),
    "hashtags-finetuned": _hashtags_finetuned(),
}
"""By the name that run.py takes."""

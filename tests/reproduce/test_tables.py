"""The papers' ablations as data: every row can be run at either scale, and says what the paper says."""

import pytest

from tutelage import ablations, api
from tutelage.ablations import Base, Row, Scale, Table
from tutelage.engine.settings import flatten
from tutelage.errors import SettingsError
from tutelage.reproduce import ReproduceOptions, _jobs

ROWS = [(name, row) for name, table in ablations.tables().items() for row in table.runs]
PAPER = {
    "pseudomae/table-6": [74.8, 74.19, None, 73.5, 74.3],
    "pseudomae/table-7": [74.8, 73.6],
    "pseudomae/table-8": [74.82, 74.19, 73.20, 74.23, 74.09],
    "pseudomae/table-9": [None, None, None],
    "pseudomae/isolate": [None] * 14,
    "rc-mae/mask": [68.4, 68.7, 67.3],
    "semi-mae/table-1": [75.9, None, None, 68.8, 71.5, 73.2, 73.9, 73.9, 75.5],
    "semi-mae/table-2": [75.5, 76.4, 75.9],
    "semi-mae/table-3": [75.9, 76.0, None],
}
"""Typed from the papers, in the order of the rows."""


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name} {row.name}" for name, row in ROWS])
def test_every_row_can_be_run(name: str, row: Row, scale: Scale) -> None:
    base = ablations.table(name).base(row, scale)
    settings = api.settings_for(base.recipe, **base.changes)
    settings.check()
    assert settings.backbone.image_size == (24 if scale == "mini" else 224)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_numbers_are_the_papers(name: str) -> None:
    assert [row.paper for row in ablations.table(name).rows] == PAPER[name]


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("name", ablations.tables())
def test_rows_differ_from_the_default_and_from_each_other(name: str, scale: Scale) -> None:
    table = ablations.table(name)
    settings = [
        api.settings_for(base.recipe, **base.changes) for base in (table.base(row, scale) for row in table.runs)
    ]
    assert len({one.model_dump_json(exclude={"recipe"}) for one in settings}) == len(settings)
    assert [row.name for row in table.runs if row.name == table.default] == [table.default]


ALONE = {
    "pseudomae/table-6": {
        "method.class_weight",
        "method.patch_weight",
        "method.teacher_mode",
        "method.labelling_teacher",
    },
    "pseudomae/table-7": {"method.labelling_teacher.momentum.start"},
    "pseudomae/table-8": {"method.class_weight", "method.patch_weight", "method.reconstruction_weight"},
    "rc-mae/mask": {"method.teacher_mask"},
    "semi-mae/table-1": {"method.branch", "method.unlabelled_weight"},
    "semi-mae/table-3": {"method.branch", "backbone.positions"},
}
"""What rows may change, by the tables' titles; a row of another method has other settings besides."""
ISOLATE = {
    "no labelling teacher (SdAE)": {"method.class_weight": 0.0, "method.patch_weight": 0.0},
    "no reconstruction teacher: pixels": {"method.reconstruction_target": "pixels"},
    "reconstruction teacher stands still": {"method.reconstruction_teacher": 1.0},
    "labelling teacher stands still": {"method.labelling_teacher": 1.0},
    "reconstruction teacher is the student": {"method.reconstruction_teacher": 0.0},
    "labelling teacher is the student": {"method.labelling_teacher": 0.0},
    "labels without discretisation": {"method.assignment": "none"},
    "centring instead of Sinkhorn": {"method.assignment": "centring"},
    "a softmax instead of Sinkhorn": {"method.sinkhorn_iterations": 0},
    "half of the patches hidden": {"method.mask_ratio": 0.5},
    "nine tenths of the patches hidden": {"method.mask_ratio": 0.9},
    "a tenth of the pictures": {"share": 0.1},
    "a hundredth of the pictures": {"share": 0.01},
}
"""What each row is; of a teacher the momentum, from the first step to the last, at every step."""


@pytest.mark.parametrize("scale", ["mini", "full"])
@pytest.mark.parametrize("name", ALONE)
def test_a_row_changes_nothing_but_what_its_table_asks(name: str, scale: Scale) -> None:
    table = ablations.table(name)

    def settings(row: Row) -> dict[str, object]:
        base = table.base(row, scale)
        return flatten(api.settings_for(base.recipe, **base.changes).model_dump(exclude={"recipe"}))

    default = settings(table.runs[0])
    for row in table.runs:
        own = settings(row)
        if own["method.name"] == default["method.name"]:
            changed = {key for key in own.keys() | default.keys() if own.get(key) != default.get(key)}
            assert {key for key in changed if not any(key.startswith(one) for one in ALONE[name])} == set(), row.name


def test_each_part_is_isolated_by_what_the_row_says() -> None:
    table = ablations.table("pseudomae/isolate")
    default, *rows = (
        (row, flatten(api.settings_for(base.recipe, **base.changes).model_dump(exclude={"recipe"})))
        for row, base in ((row, table.base(row, "mini")) for row in table.runs)
    )
    assert [row.name for row, _ in rows] == list(ISOLATE)
    for row, settings in rows:
        expected: dict[str, object] = {}
        for key, value in ISOLATE[row.name].items():
            moves = {f"{key}.every": "step", f"{key}.momentum.start": value, f"{key}.momentum.end": value}
            expected |= moves if key.endswith("_teacher") else {key: value}
        assert {key: settings[key] for key in expected} == expected, row.name
        assert {key for key in default[1] if settings[key] != default[1][key]} <= expected.keys(), row.name


def test_supervised_training_differs_from_semi_mae_in_its_method_alone() -> None:
    table = ablations.table("semi-mae/table-1")
    rows = {row.name: table.base(row, "mini") for row in table.runs}
    default, labels_only = (
        flatten(api.settings_for(base.recipe, **base.changes).model_dump(exclude={"recipe", "method"}))
        for base in (rows["default"], rows["labels only (supervised)"])
    )
    different = {key for key in default if default[key] != labels_only[key]}
    assert different <= {"views.weak.scale", "views.simple.scale", "views.strong.scale"}
    assert labels_only["views.simple.scale"] == default["views.weak.scale"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("one teacher, each step", {"teacher_mode": "single", "every": "step", "start": 0.996, "end": 1.0}),
        ("one teacher, each epoch", {"teacher_mode": "single", "every": "epoch", "start": 0.96, "end": 0.99}),
    ],
)
def test_a_single_teacher_moves_as_the_disentangled_one_of_its_cadence(row: str, expected: dict[str, object]) -> None:
    """Methods A22."""
    table = ablations.table("pseudomae/table-6")
    base = table.base(next(one for one in table.rows if one.name == row), "full")
    method = flatten(api.settings_for(base.recipe, **base.changes).method.model_dump())
    found = {"teacher_mode": method["teacher_mode"]} | {
        name.rpartition(".")[2]: value for name, value in method.items() if name.startswith("labelling_teacher.")
    }
    assert expected.items() <= found.items()


def test_the_mini_momentum_of_table_7_is_as_much_faster_as_the_papers() -> None:
    """Half-lives of 0.996 and 0.96 are ten to one, as those of 0.9 and the row's."""
    table = ablations.table("pseudomae/table-7")
    base = table.base(table.rows[1], "mini")
    fast = api.settings_for(base.recipe, **base.changes).method.labelling_teacher.momentum.start
    assert fast == pytest.approx(0.9**10)


def test_rows_with_the_same_settings_share_a_run() -> None:
    options = {"data": "digits", "seeds": 2}
    first = _jobs(ablations.table("pseudomae/table-6"), ReproduceOptions(table="pseudomae/table-6", **options))
    other = _jobs(ablations.table("pseudomae/table-8"), ReproduceOptions(table="pseudomae/table-8", **options))
    by_name = {(job.row.name, job.seed): job.out for job in (*first, *other)}
    assert by_name["no labels (SdAE)", 1] == by_name["reconstruction only (SdAE)", 1]
    assert len({job.out for job in first}) == len(first) == 10
    assert [job.seed for job in first] == [0] * 5 + [1] * 5


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match="C-42: there is no table 'pseudomae/tabel-8'.*pseudomae/table-8"):
        ablations.table("pseudomae/tabel-8")


def test_a_row_takes_its_own_base_and_changes_on_top() -> None:
    table = Table(
        "", "", "", {"mini": Base("a", {"x": {"y": 1, "z": 1}}), "full": Base("b")},
        (Row("default"), Row("other", {"x": {"z": 2}}), Row("third", bases={"mini": Base("c")})),
    )  # fmt: skip
    assert table.base(table.rows[1], "mini") == Base("a", {"x": {"y": 1, "z": 2}})
    assert table.base(table.rows[1], "full") == Base("b", {"x": {"z": 2}})
    assert table.base(table.rows[2], "mini") == Base("c")

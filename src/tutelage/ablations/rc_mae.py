"""What RC-MAE's teacher sees (arXiv:2210.02077, sections 4 and 5)."""

from tutelage.ablations import MINI, Base, Row, Table

TABLES = {
    "mask": Table(
        "the teacher's mask",
        "arXiv:2210.02077, abstract and section 5",
        "the stored text has no number: the same mask is generally better, in pretraining and downstream",
        {"mini": Base("rc-mae-quickstart", MINI), "full": Base("rc-mae-vits16")},
        (
            Row("default"),
            Row("another mask for the teacher", {"method": {"teacher_mask": "different"}}, claim="worse"),
            Row(
                "no teacher (MAE)",
                claim="worse",
                bases={
                    "mini": Base("mae-quickstart", MINI),
                    "full": Base("rc-mae-vits16", {"method": {"consistency_weight": 0.0}}),
                },
            ),
        ),
    ),
}

"""What RC-MAE's teacher sees (arXiv:2210.02077, Table 1 of its first version)."""

from tutelage.ablations import MINI, Base, Row, Table

TABLES = {
    "mask": Table(
        "the teacher's mask",
        "arXiv:2210.02077v1, Table 1",
        "ImageNet-1K top-1 by linear probing, ViT-B/16, 1600 epochs",
        {"mini": Base("rc-mae-quickstart", MINI), "full": Base("rc-mae-vitb16", {"epochs": 1600})},
        (
            Row("default", paper=68.4),
            Row("another mask for the teacher", {"method": {"teacher_mask": "different"}}, 68.7),
            Row(
                "no teacher (MAE)",
                paper=67.3,
                bases={"mini": Base("mae-quickstart", MINI), "full": Base("mae-vitb16", {"epochs": 1600})},
            ),
        ),
        note="The paper's other columns, same mask, another mask, MAE: fine-tuned 83.6, 83.6, 83.4; AP of boxes on COCO "
        "51.0, 50.7, 50.3, of masks 45.4, 45.2, 44.9. It prefers the same mask for the last two. "
        "Here encoders are judged by a linear classifier on cached features, not by the paper's linear probing.",
    ),
}

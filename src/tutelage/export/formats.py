"""`tutelage export`: what a name means, and which writer it goes to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tutelage.encoder import is_relative
from tutelage.errors import CheckpointError
from tutelage.export import hub
from tutelage.export.sources import is_mae, load_mae, load_whole
from tutelage.export.to_onnx import check_installed, write_onnx
from tutelage.export.to_timm import write_timm
from tutelage.export.to_transformers import unlike_vit_mae, write_transformers, write_vit_mae
from tutelage.transfer import Encoder, load_encoder

Format = Literal["timm", "transformers", "onnx"]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    origin: str
    """Where the weights were read."""
    what: str
    """In words: "an encoder", "a classifier of 10 classes", ..."""
    load: str
    """A line of Python that loads it."""
    difference: float
    """The largest one between what is computed before and after."""
    note: str = ""
    """What is not as one would expect."""


def export(
    where: str, folder: Path, to: Format = "timm", *, teacher: str | None = None, encoder_only: bool = False
) -> Exported:
    """Write what `where` names for others to use: its classifier where it has one, else its encoder.

    To transformers, a run of MAE is written with its decoder. `encoder_only` leaves classifier and decoder out; `teacher` names
    another network of the run, whose encoder is written.

    Raises:
        CheckpointError: what `load_encoder` raises; X-02, `folder` is no export; X-03 or X-04, the format cannot hold it.
        MachineError: R-12, the library of the format is not installed; R-03, the folder cannot be written.
        NumericsError: X-01, the library computes something else.

    """
    _check_installed(to)
    note = ""
    if to == "transformers" and teacher is None and not encoder_only and is_mae(where):
        found = load_mae(where)
        reason = unlike_vit_mae(found.mae) if found else None
        if found and reason is None:
            difference = write_vit_mae(found.mae, folder, found.statistics)
            load = f'transformers.ViTMAEForPreTraining.from_pretrained("{folder}")'
            return Exported(found.origin, "a masked autoencoder, encoder and decoder", load, difference)
        why = f"transformers has no ViTMAE with {reason}" if reason else "the run has no checkpoint any more"
        note = f"without its decoder: {why}"
    encoder = load_encoder(where, teacher=teacher) if encoder_only or teacher else load_whole(where)
    what = f"a classifier of {len(encoder.classes)} classes" if encoder.classes else "an encoder"
    load, difference = _write(encoder, folder, to)
    return Exported(encoder.origin, what, load, difference, note)


def _check_installed(to: Format) -> None:
    """Before anything is read: weights may be large."""
    if to == "transformers":
        hub.library()
    elif to == "onnx":
        check_installed()


def _write(encoder: Encoder, folder: Path, to: Format) -> tuple[str, float]:
    """The line that loads it, and the largest difference."""
    vit, classes = encoder.vit, encoder.classes
    if to == "onnx":
        difference = write_onnx(vit, folder, encoder.statistics, classes=classes)
        return f'onnxruntime.InferenceSession("{folder}/model.onnx")', difference
    if to == "transformers":
        name, difference = write_transformers(vit, folder, encoder.statistics, classes=classes)
        auto = "AutoModelForImageClassification" if classes else "AutoModel"
        options = ", add_pooling_layer=False" if name == "ViTModel" else ""
        return f'transformers.{auto}.from_pretrained("{folder}"{options})', difference
    if is_relative(vit):
        raise CheckpointError(
            "X-03",
            f"{encoder.origin} has relative positions, which no model of timm's has.",
            "timm would refuse the folder.",
            "Export it --to onnx, use tutelage.load_encoder, or train with --backbone.positions sincos.",
        )
    difference = write_timm(vit, folder, encoder.statistics, architecture=encoder.architecture, classes=classes)
    return f'timm.create_model("local-dir:{folder}", pretrained=True)', difference

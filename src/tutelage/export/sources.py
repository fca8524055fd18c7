"""What a name means for an export: more than an encoder, where there is more."""

from pathlib import Path
from typing import NamedTuple

from tutelage.config import read_json
from tutelage.data.index import Statistics
from tutelage.methods.mae import MAE, MAESettings
from tutelage.transfer import Encoder, load_classifier, load_encoder
from tutelage.weights import newest_checkpoint, read_checkpoint, read_weights, reading


class TrainedMAE(NamedTuple):
    """A masked autoencoder with its decoder."""

    mae: MAE
    statistics: Statistics
    origin: str
    """The checkpoint that it was read from."""


def load_whole(where: str) -> Encoder:
    """The classifier that `where` names, a run's or a folder's, and where there is none the encoder.

    Raises:
        CheckpointError: what `load_encoder` raises.

    """
    path = Path(where).expanduser()
    inside = path / "classifier"
    folder = inside if (inside / "config.json").is_file() else path
    named = (folder / "config.json").is_file() and read_weights(str(folder)).classes
    return load_classifier(str(folder)) if named else load_encoder(where)


def run_of(where: str) -> Path:
    """The run that `where` names, or whose checkpoint it names."""
    path = Path(where).expanduser()
    return path.resolve().parent.parent if (path / "MANIFEST.json").is_file() else path


def is_mae(where: str) -> bool:
    """Whether `where` names a run of MAE, or a checkpoint of one."""
    run = run_of(where)
    if not (run / "settings.json").is_file():
        return False
    with reading(run):
        return bool(read_json(run / "settings.json")["method"]["name"] == "mae")


def load_mae(where: str) -> TrainedMAE | None:
    """The whole network of such a run, from its newest checkpoint, or of the checkpoint; None where there is none any more.

    Raises:
        CheckpointError: damaged, or of another shape than it says.

    """
    path = Path(where).expanduser()
    if (path / "MANIFEST.json").is_file():
        return _mae_of(path.resolve())
    if any((path / "checkpoints").glob("step-[0-9]*/MANIFEST.json")):
        return newest_checkpoint(path, _mae_of)
    return None


def _mae_of(checkpoint: Path) -> TrainedMAE:
    run = checkpoint.parent.parent
    with reading(run):
        settings = MAESettings.model_validate(read_json(run / "settings.json")["method"])
    encoder, tensors = load_encoder(str(checkpoint)), read_checkpoint(checkpoint)
    mae = MAE(settings, encoder.vit).eval()
    with reading(checkpoint):
        mae.decoder.load_state_dict({name: tensors[f"decoder.{name}"] for name in mae.decoder.state_dict()})
    return TrainedMAE(mae, encoder.statistics, encoder.origin)

"""The classifier that a run hands on, whatever it is: a timm folder, or two streams that no library loads."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.export import Encoder, load_classifier
from tutelage.handed_on import Described, folder_of, has_method, read_method, write_whole_method
from tutelage.methods.mae import MAESettings
from tutelage.methods.semiformer import Semiformer, SemiformerSettings

NAME = "joint"


class _Described(Described):
    method: SemiformerSettings[MAESettings]


@dataclass(frozen=True, eq=False)
class Joint:
    """A classifier of two streams, with what its pictures must look like."""

    vit: nn.Module
    """Gives logits over `classes`; half of it is a ViT."""
    statistics: Statistics
    size: tuple[int, int]
    """(height, width) of its pictures in pixels."""
    channels: int
    origin: str
    architecture: str
    """The names of both networks."""
    classes: tuple[str, ...]


class _Answers(nn.Module):
    def __init__(self, method: Semiformer) -> None:
        super().__init__()
        self.method = method

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        return self.method.logits(x)


def write_joint(
    method: Semiformer,
    folder: Path,
    backbone: BackboneSettings,
    statistics: Statistics,
    channels: int,
    classes: tuple[str, ...],
    sample: Tensor,
) -> float:
    """Write a folder that `load_joint` reads, compared on a `sample` of normalised pictures; the largest difference.

    A branch stays behind: it answers nothing. Raises what `write_proven` raises.
    """
    settings = SemiformerSettings[MAESettings].model_validate(method.settings.model_dump() | {"branch": None})
    described = _Described(
        backbone=backbone, method=settings, channels=channels, classes=classes, mean=statistics.mean, std=statistics.std
    )
    alone = settings.build(build_vit(backbone, channels), len(classes)).eval()
    alone.load_state_dict({k: v for k, v in method.state_dict().items() if not k.startswith("branch.")})

    def load(place: str) -> Semiformer:
        return _read(place)[1]

    return write_whole_method(NAME, folder, described, alone, lambda streams: streams.logits(sample), load)


def load_joint(where: str) -> Joint:
    """The two streams of a run, or in the folder that the run wrote, in eval mode on the CPU. Raises CheckpointError."""
    told, method = _read(where)
    architecture = f"{told.method.conv} and {told.backbone.name}"
    origin = str(folder_of(NAME, where))
    return Joint(
        _Answers(method), told.statistics, told.backbone.size, told.channels, origin, architecture, told.classes
    )


def _read(where: str) -> tuple[_Described, Semiformer]:
    told, method = read_method(NAME, where, _Described, "pretrain semiformer-quickstart")
    assert isinstance(method, Semiformer)
    return told, method


Classifier = Encoder | Joint


def load_any_classifier(where: str) -> Classifier:
    """The classifier of a run, or in the folder that the run wrote. Raises what `load_classifier` raises."""
    return load_joint(where) if has_method(NAME, where) else load_classifier(where)

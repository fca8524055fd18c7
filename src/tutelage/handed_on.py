"""What a run hands on beside its encoder: encoder and heads in a folder, described by a file that is named as the folder is."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from tutelage.config import Settings, read_json
from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.errors import CheckpointError, SettingsError
from tutelage.export.proof import to_compare, write_proven
from tutelage.foreign import read_safetensors
from tutelage.method import Method

TENSORS = "model.safetensors"
M = TypeVar("M", bound=Method)


class Described(Settings):
    """What the file says; a method's own kind adds its settings."""

    method: Any
    backbone: BackboneSettings
    channels: int
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def statistics(self) -> Statistics:
        """How pictures are normalised."""
        return Statistics(self.mean, self.std)

    def build(self) -> Method:
        """The method, with weights of its own."""
        method: Method = self.method.build(build_vit(self.backbone, self.channels), len(self.classes))
        return method


D = TypeVar("D", bound=Described)


def write_whole_method(
    name: str, folder: Path, described: Described, method: M, outputs: Callable[[M], Tensor], load: Callable[[str], M]
) -> float:
    """Write a folder that `read_method` reads, `load` it back and compare `outputs`; the largest difference.

    Raises what `write_proven` raises.
    """

    def write(place: Path) -> None:
        (place / f"{name}.json").write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        tensors = {key: tensor.cpu().float().contiguous().clone() for key, tensor in method.state_dict().items()}
        save_file(tensors, place / TENSORS, metadata={"format": "pt"})

    @torch.no_grad()
    def difference(place: Path) -> float:
        return float((outputs(to_compare(method)) - outputs(load(str(place)))).abs().max())

    return write_proven(folder, write, difference, reader="tutelage", todo="Please report it.", mark=f"{name}.json")


def has_method(name: str, where: str) -> bool:
    """Whether there is one in the run, or in the folder that the run wrote."""
    return (folder_of(name, where) / f"{name}.json").is_file()


def read_method(name: str, where: str, kind: type[D], command: str) -> tuple[D, Method]:
    """The method of a run of `command`, or in the folder that the run wrote, in eval mode on the CPU, and what is said of it.

    Raises CheckpointError K-07, K-03, K-30.
    """
    folder = folder_of(name, where)
    if not (folder / f"{name}.json").is_file():
        raise CheckpointError(
            "K-07", f"{where} has no {name}.", f"A run of tutelage {command} writes one at its end.",
            f"Name such a run, or its folder {name}.",
        )  # fmt: skip
    try:
        told = kind.model_validate_json(json.dumps(read_json(folder / f"{name}.json")))
        tensors = read_safetensors(folder / TENSORS)
    except (ValueError, ValidationError, OSError) as error:
        raise CheckpointError("K-03", f"{folder} cannot be read: {str(error).splitlines()[0]}.") from error
    try:
        with torch.device("meta"):  # what the settings claim takes no memory before it is compared
            claimed = {key: tensor.shape for key, tensor in told.build().state_dict().items()}
    except SettingsError as error:
        raise CheckpointError("K-03", f"{folder} cannot be built: {error}") from error
    if claimed != {key: tensor.shape for key, tensor in tensors.items()}:
        raise CheckpointError("K-30", f"the tensors of {folder} are not those of its settings.")
    method = told.build()
    method.load_state_dict(tensors)
    return told, method.eval()


def folder_of(name: str, where: str) -> Path:
    """The run's folder of that name, where it has one."""
    path = Path(where).expanduser()
    return path / name if (path / name / f"{name}.json").is_file() else path

"""How an export is written: beside its place, loaded back by the library that it is for, compared, and only then renamed."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.durable import beside
from tutelage.errors import CheckpointError, MachineError, NumericsError

LARGEST_DIFFERENCE = 1e-4
"""Between what is computed before and after an export; the same code in float32 on one machine gives 0."""

Network = TypeVar("Network", bound=nn.Module)


def write_proven(
    folder: Path,
    write: Callable[[Path], None],
    difference: Callable[[Path], float],
    *,
    reader: str,
    todo: str,
    mark: str = "config.json",
) -> float:
    """Let `write` fill a folder beside `folder`, measure it by `difference`, and rename it; returns what was measured.

    An earlier export in `folder`, known by its file `mark`, is replaced. `reader` is the library that loads it back, `todo`
    what to do where it computes something else.

    Raises:
        NumericsError: X-01, the difference is more than 1e-4, or no number; nothing is left behind.
        CheckpointError: X-02, the folder is there and is no export.
        MachineError: R-03, the folder cannot be written.

    """
    if folder.exists() and not (folder / mark).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(
            "X-02", f"{folder} is there and is no export.", "It would be lost.", "Name another folder."
        )
    temporary = beside(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        write(temporary)
        found = difference(temporary)
        if not found <= LARGEST_DIFFERENCE:
            raise NumericsError(
                "X-01",
                f"what {reader} computes from the export differs by {found:.2g}, more than {LARGEST_DIFFERENCE:g}.",
                "It does not compute what was trained, so nothing was exported.",
                todo,
            )
        _replace(temporary, folder)
        return found
    except OSError as error:
        raise MachineError("R-03", f"{folder} cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(new: Path, folder: Path) -> None:
    old = beside(folder, "-old")
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def to_compare(network: Network) -> Network:
    """A copy that evaluates in float32 on the CPU."""
    return copy.deepcopy(network).cpu().float().eval()


def noise(vit: VisionTransformer, count: int = 4) -> Float[Tensor, "b c h w"]:
    """Pictures of the encoder's size to compare on, the same ones each time."""
    shape = (count, vit.patch_embed.proj.in_channels, *vit.patch_embed.img_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def not_installed(library: str, extra: str) -> MachineError:
    """The error that a library of an optional extra is missing."""
    return MachineError(
        "R-12", f"{library} is not installed.", "This export is written for it, and read back by it.",
        f"Install it: pip install 'tutelage[{extra}]'.",
    )  # fmt: skip

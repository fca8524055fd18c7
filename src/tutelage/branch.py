"""A masked method as the branch of one that guesses labels, around the same encoder (Semi-MAE, arXiv:2301.01431, 3.2)."""

from dataclasses import replace

import torch
from jaxtyping import Float
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.batch import Batch, Stream
from tutelage.errors import SettingsError
from tutelage.method import Method, MethodSettings


def unlabelled_stream(branch: MethodSettings | None, share: int, more_keys: int = 0) -> Stream:
    """Unlabelled pictures with a weak and a strong view, what the branch asks for besides, and `more_keys` rows of keys."""
    asked = next(iter(branch.streams.values())) if branch else Stream(views=("simple",))
    return Stream(("weak", "strong", *asked.views[1:]), asked.num_keys + more_keys, "unknown", share)


def check_branch(branch: MethodSettings | None, grid: tuple[int, int], pictures: int) -> None:
    """Refuse a branch that is no masked method, or does not fit so many unlabelled pictures. Raises SettingsError C-24."""
    if branch:
        if "mask_ratio" not in type(branch).model_fields:
            raise SettingsError(
                "C-24",
                f"method.branch '{branch.name}' is no masked method.",
                todo="Name mae, sdae, pseudomae, rc_mae or lomar.",
            )
        branch.check(grid, pictures)


def branch_around(vit: VisionTransformer, settings: MethodSettings) -> Method:
    """A method around an encoder that another module holds: its weights belong there, and are counted and saved once."""
    branch = settings.build(vit)
    del branch.student
    branch.__dict__["student"] = vit
    return branch


def branch_batch(unlabelled: Batch, more_keys: int = 0) -> dict[str, Batch]:
    """The weak view in place of the branch's first, the others and the keys that it asked for, without `more_keys` rows."""
    views = (unlabelled.views[0], *unlabelled.views[2:])
    return {"train": replace(unlabelled, views=views, keys=unlabelled.keys[: len(unlabelled.keys) - more_keys])}


def beside(parts: dict[str, Tensor], branch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The losses of a method and of its branch, by names that tell them apart."""
    return parts | {f"branch_{name}" if name in parts else name: part for name, part in branch.items()}


def nothing_of(module: nn.Module) -> Float[Tensor, ""]:
    """0, with a gradient of zeros for every parameter: so that each has one in every step, on every process."""
    return 0.0 * torch.stack([p.sum() for p in module.parameters() if p.requires_grad]).sum()

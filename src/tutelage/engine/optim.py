"""AdamW with the papers' parameter groups."""

from typing import Any

import torch
from torch import nn

from tutelage.engine.settings import OptimSettings

_TOKENS = ("cls_token", "mask_token")


def parameter_groups(module: nn.Module, settings: OptimSettings) -> list[dict[str, Any]]:
    """Two groups of the parameters that learn: those that decay, and those that do not.

    Biases and norms (all tensors of one dimension) never decay. Class and mask tokens have three dimensions and do, as
    in the code of MAE and SdAE, unless `decay_tokens` is off (docs/methods/mae.md).
    """
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        token = name.rpartition(".")[2] in _TOKENS
        (plain if parameter.ndim <= 1 or (token and not settings.decay_tokens) else decay).append(parameter)
    return [{"params": decay, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def build_optimizer(module: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over the parameter groups; its learning rate is set before every step."""
    groups = parameter_groups(module, settings)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=1e-8, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """One learning rate for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr

"""AdamW with the papers' parameter groups."""

import re
from collections import defaultdict
from typing import Any

import torch

from tutelage.engine.settings import OptimSettings
from tutelage.method import Method

_TOKENS = ("cls_token", "mask_token", "pos_embed")


def parameter_groups(method: Method, settings: OptimSettings) -> list[dict[str, Any]]:
    """The parameters that learn, grouped by whether they decay and by how much of the learning rate they get.

    Biases and norms (all tensors of one dimension) never decay. Class and mask tokens and learned positions have three
    dimensions and do, as in the code of MAE and SdAE, unless `decay_tokens` is off (docs/methods/mae.md). With
    `layer_decay` d an encoder of L blocks gets d^(L + 1) of the learning rate in its patch embedding, class token and
    positions, d^(L - j) in block j from 0 on, and what comes after, the head and other networks, the whole of it (BEiT, MAE).
    """
    depth = len(method.student.blocks)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            token = name.rpartition(".")[2] in _TOKENS
            plain = parameter.ndim <= 1 or (token and not settings.decay_tokens)
            scale = settings.layer_decay ** (depth + 1 - _layer(name, depth))
            groups[0.0 if plain else settings.weight_decay, scale].append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in sorted(groups.items(), key=lambda item: (-item[0][0], item[0][1]))
    ]


def _layer(name: str, depth: int) -> int:
    """0 for what comes before the encoder's blocks, 1 for the first block, and so on; depth + 1 for all that comes after."""
    if block := re.match(r"student\.blocks\.(\d+)\.", name):
        return int(block[1]) + 1
    return 0 if re.match(r"student\.(patch_embed|cls_token|pos_embed|norm_pre)", name) else depth + 1


def build_optimizer(method: Method, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over the parameter groups; its learning rate is set before every step."""
    groups = parameter_groups(method, settings)
    return torch.optim.AdamW(groups, lr=0.0, betas=settings.betas, eps=1e-8, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of every group, by its share."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]

"""Settings small enough to run in a second: digits at 16 px, patch 4 (4 visible and 12 hidden patches), a ViT of 16 x 2."""

import multiprocessing
from typing import Any

from tutelage.api import settings_for
from tutelage.config import merged
from tutelage.engine.settings import RunSettings

FORKSERVER = multiprocessing.get_context("forkserver")
"""Starts a process for a run in half a second, for all that a run imports is there already."""
FORKSERVER.set_forkserver_preload(
    ["tutelage.api", "tutelage.engine.finish", "tutelage.methods.mae", "tutelage.methods.pseudomae", "sklearn.datasets"]
)

TINY = {
    "data": "digits",
    "epochs": 1,
    "batch_size": 32,
    "log_steps": 1,
    "monitors": 1,
    "backbone": {"image_size": 16, "width": 16, "depth": 2, "heads": 2},
    "method": {"decoder": {"width": 16, "depth": 1, "heads": 2}},
}
HEAD = {"prototypes": 32, "hidden": 16, "bottleneck": 8, "layers": 2}
FLAGS = [
    "--batch-size=32",
    "--log-steps=1",
    "--monitors=1",
    "--backbone.image-size=16",
    "--backbone.width=16",
    "--backbone.depth=2",
    "--backbone.heads=2",
    "--method.decoder.width=16",
    "--method.decoder.depth=1",
    "--method.decoder.heads=2",
]
PLAIN_FLAGS = [flag for flag in FLAGS if ".decoder." not in flag]
"""For a method without a decoder."""
HEAD_FLAGS = [f"--method.head.{name}={value}" for name, value in HEAD.items()]


_DECODER = TINY["method"]
SHRUNK: dict[str, dict[str, Any]] = {
    "mae": {"method": _DECODER},
    "sdae": {"method": _DECODER},
    "pseudomae": {"method": {**_DECODER, "head": HEAD}},
    "rc-mae": {"method": {**_DECODER, "teacher_mask": "different"}},
    "lomar": {"method": {"window": 2, "num_windows": 3}},
    "supervised": {},
    "finetune": {},
    "segment": {"method": {"channels": 8, "auxiliary_channels": 8}},
    "fixmatch": {"labels": "10%", "method": {"threshold": 0.11, "unlabelled_ratio": 7, "mixing": "probabilistic"}},
    "semi-mae": {"labels": "100", "method": {"branch": _DECODER, "threshold": 0.11, "unlabelled_ratio": 7}},
    "semi-mae-pseudomae": {
        "labels": "100",
        "method": {"branch": {**_DECODER, "head": HEAD}, "threshold": 0.11, "unlabelled_ratio": 7},
    },
    "semiformer": {"labels": "100", "method": {"conv": "resnet10t", "threshold": 0.11}},
}
"""What makes each quick-start small enough, beside TINY: a threshold that first guesses pass."""


def tiny(method: str, /, **changes: Any) -> RunSettings[Any]:
    """The quick-start of a method, shrunk; `changes` are merged in."""
    small = {name: value for name, value in TINY.items() if name != "method"}
    return settings_for(f"{method}-quickstart", **merged(small, SHRUNK[method], changes))

"""Settings small enough to run in a second: digits at 16 px, patch 4 (4 visible and 12 hidden patches), a ViT of 16 x 2."""

from typing import Any

from tutelage import recipes
from tutelage.engine.settings import RunSettings, settings_class

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


def tiny(method: str, /, **changes: Any) -> RunSettings[Any]:
    """The quick-start of a method, shrunk; `changes` are merged in."""
    values = recipes.load(f"{method}-quickstart").model_dump()
    shared = TINY if "decoder" in values["method"] else {**TINY, "method": {}}
    values = _merge(values, shared)
    if method == "pseudomae":
        values = _merge(values, {"method": {"head": HEAD}})
    return settings_class(method).model_validate(_merge(values, changes))


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        merged[name] = _merge(base[name], value) if isinstance(value, dict) and base.get(name) else value
    return merged

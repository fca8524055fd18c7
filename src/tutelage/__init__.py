"""tutelage: masked-image pretraining under teachers.

`pretrain`, `finetune`, `segment`, `detect`, `evaluate` (`evaluate_all`) and `load_encoder` are the doors; the parts are
importable on their own (`from tutelage.methods.pseudomae import PseudoMAE`). Importing the package itself imports nothing
heavy.
"""

from typing import TYPE_CHECKING, Any

from tutelage.version import __version__

if TYPE_CHECKING:
    from tutelage.api import detect as detect
    from tutelage.api import evaluate as evaluate
    from tutelage.api import evaluate_all as evaluate_all
    from tutelage.api import finetune as finetune
    from tutelage.api import load_encoder as load_encoder
    from tutelage.api import pretrain as pretrain
    from tutelage.api import segment as segment

__all__ = ["__version__", "detect", "evaluate", "evaluate_all", "finetune", "load_encoder", "pretrain", "segment"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from tutelage.floors import check_floors

        check_floors()
        from tutelage import api

        return getattr(api, name)
    raise AttributeError(f"module 'tutelage' has no attribute '{name}'")

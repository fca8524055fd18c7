"""Every shape in a signature is checked while tests run."""

from jaxtyping import install_import_hook

# A generic settings model is no subclass of itself with Any, which beartype would ask of the engine: it is left out.
PACKAGES = [
    "batch",
    "branch",
    "masking",
    "targets",
    "losses",
    "encoder",
    "decoder",
    "heads",
    "teacher",
    "method",
    "methods",
]
PACKAGES += ["neighbours", "monitors", "pictures", "data", "evaluation", "export", "transfer", "weights"]
install_import_hook(
    [f"tutelage.{name}" for name in PACKAGES],
    "beartype.beartype(conf=beartype.BeartypeConf(violation_type=TypeError))",
)

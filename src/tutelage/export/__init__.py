"""Encoders out as folders for other libraries, with a proof: each is loaded back and compared before it is given its name."""

from tutelage.export.formats import Exported, Format, export
from tutelage.export.to_onnx import write_onnx
from tutelage.export.to_timm import model_arguments, write_timm
from tutelage.export.to_transformers import write_transformers, write_vit_mae
from tutelage.transfer import Coverage, Encoder, init_from, load_classifier, load_encoder

__all__ = [
    "Coverage", "Encoder", "Exported", "Format", "export", "init_from", "load_classifier", "load_encoder", "model_arguments",
    "write_onnx", "write_timm", "write_transformers", "write_vit_mae",
]  # fmt: skip

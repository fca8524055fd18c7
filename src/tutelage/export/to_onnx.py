"""Encoders, classifiers and segmenters out as one ONNX graph, for onnxruntime and whatever else reads it."""

import json
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.data.index import Statistics
from tutelage.export.proof import noise, not_installed, to_compare, write_proven

LARGEST_FILE = 2 * 10**9
"""Bytes of weights that go into the one file; a larger one ONNX cannot hold, and its weights lie beside it."""


def write_onnx(vit: VisionTransformer, folder: Path, statistics: Statistics, *, classes: tuple[str, ...] = ()) -> float:
    """Write FOLDER/model.onnx and its config.json; the largest difference of what they compute.

    The graph takes `pictures` (normalised, float32 [batch, c, h, w], of any batch) and gives `class_token` [batch, d] and
    `patch_tokens` [batch, n, d], or where there is a classifier its `logits` [batch, classes]. config.json says how pictures
    are normalised, how large they are, and the names of the classes. Traced with two pictures, compared by onnxruntime on one
    and on three. Weights of more than 2 GB lie beside the graph, in model.onnx.data.

    Raises:
        NumericsError: X-01, the outputs differ by more than 1e-4; nothing is left behind.
        CheckpointError: X-02, the folder is there and is no export.
        MachineError: R-12, onnx, onnxscript or onnxruntime is not installed; R-03, the folder cannot be written.

    """
    graph = _Graph(to_compare(vit)).eval()
    values = described(vit, statistics, graph.outputs) | {"classes": list(classes)}
    return write_graph(graph, graph.outputs, vit, folder, values, todo="Export it --to timm, and tell us.")


def write_graph(
    graph: nn.Module, outputs: list[str], vit: VisionTransformer, folder: Path, values: dict[str, Any], *, todo: str
) -> float:
    """Write FOLDER/model.onnx, what `graph` makes of pictures for `vit`, and its config.json; the largest difference.

    `graph` evaluates in float32 on the CPU and gives a tuple of as many tensors as `outputs` has names. Raises as
    `write_onnx` does; `todo` says what to do where onnxruntime computes something else.
    """
    check_installed()

    def write(place: Path) -> None:
        (place / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        _trace(graph, outputs, vit, place / "model.onnx")

    return write_proven(
        folder,
        write,
        lambda place: _difference(graph, outputs, vit, place / "model.onnx"),
        reader="onnxruntime",
        todo=todo,
    )


def described(vit: VisionTransformer, statistics: Statistics, outputs: list[str]) -> dict[str, Any]:
    """What config.json says of any graph: its input and outputs, and what pictures must look like."""
    return {
        "format": "onnx",
        "input": "pictures",
        "outputs": outputs,
        "size": [int(vit.patch_embed.proj.in_channels), *map(int, vit.patch_embed.img_size)],
        "mean": list(statistics.mean),
        "std": list(statistics.std),
    }


class _Graph(nn.Module):
    """What the file computes."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.vit = vit
        self.outputs = ["logits"] if vit.num_classes else ["class_token", "patch_tokens"]

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        tokens = self.vit.forward_features(pictures)
        if self.vit.num_classes:
            return (self.vit.forward_head(tokens),)
        return tokens[:, 0], tokens[:, self.vit.num_prefix_tokens :]


def check_installed() -> None:
    """Refuse, with R-12, where a library is missing that writes or reads the graph."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise not_installed(error.name or "onnx", "onnx") from error


@torch.no_grad()
def _trace(graph: nn.Module, outputs: list[str], vit: VisionTransformer, file: Path) -> None:
    pictures = noise(vit, 2)
    graph(pictures)  # what it keeps for its size is computed before it is traced
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    torch.onnx.export(
        graph,
        (pictures,),
        str(file),
        input_names=["pictures"],
        output_names=outputs,
        dynamic_shapes={"pictures": {0: torch.export.Dim("batch")}},
        external_data=size > LARGEST_FILE,
        dynamo=True,
        verbose=False,
    )
    _forget_paths(file)


def _forget_paths(file: Path) -> None:
    """Take out what torch notes at each node: in which file of this machine it was computed."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    for node in model.graph.node:
        node.ClearField("metadata_props")
    onnx.save(model, file)


@torch.no_grad()
def _difference(graph: nn.Module, outputs: list[str], vit: VisionTransformer, file: Path) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    differ = []
    for count in (1, 3):
        pictures = noise(vit, count)
        for ours, theirs in zip(graph(pictures), session.run(outputs, {"pictures": pictures.numpy()}), strict=True):
            differ.append((ours - torch.from_numpy(theirs)).abs().max())
    return float(torch.stack(differ).max())

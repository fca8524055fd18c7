"""The papers' formulas in NumPy, float64, one picture at a time: slow, plain, and without a line of the library."""

import numpy as np
from scipy.special import erf
from torch import nn

Array = np.ndarray
Weights = dict[str, Array]


def weights_of(module: nn.Module) -> Weights:
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach().double().numpy() for name, tensor in tensors.items()}


# --- layers -----------------------------------------------------------------------------------------------------------


def linear(x: Array, w: Weights, name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def layer_norm(x: Array, w: Weights, name: str) -> Array:
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Array) -> Array:
    return x * (1 + erf(x / np.sqrt(2))) / 2


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


Places = list[tuple[int, int] | None]
"""(row, column) of each token, None for the class token."""


def attention(x: Array, w: Weights, name: str, heads: int, places: Places | None = None) -> Array:
    n, d = x.shape
    size = d // heads
    qkv = linear(x, w, f"{name}.qkv")
    out = np.zeros((n, d))
    for head in range(heads):
        q, k, v = (qkv[:, i * d + head * size : i * d + (head + 1) * size] for i in range(3))
        logits = q @ k.T / np.sqrt(size)
        if places is not None:
            vectors = w[f"{name}.relative_positions"]
            for i in range(n):
                for j in range(n):
                    logits[i, j] += q[i] @ vectors[bucket(places[i], places[j])]
        out[:, head * size : (head + 1) * size] = softmax(logits) @ v
    return linear(out, w, f"{name}.proj")


def bucket(query: tuple[int, int] | None, key: tuple[int, int] | None) -> int:
    """Methods 2.4: along an axis 0 and 1 patch away exactly, 2 or 3 as 2, more as 3, with the sign; 7 x 7 and one more."""
    if query is None or key is None:
        return 49
    signed = []
    for a, b in zip(query, key, strict=True):
        far = abs(a - b)
        step = far if far <= 1 else 2 if far <= 3 else 3
        signed.append(step if a > b else -step)
    return 7 * (signed[0] + 3) + signed[1] + 3


def block(x: Array, w: Weights, name: str, heads: int, places: Places | None = None) -> Array:
    x = x + attention(layer_norm(x, w, f"{name}.norm1"), w, f"{name}.attn", heads, places)
    return x + linear(gelu(linear(layer_norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1")), w, f"{name}.mlp.fc2")


def sincos(width: int, rows: int, cols: int) -> Array:
    """Methods 1.4: columns in the first half of the channels, rows in the second, the class token at 0."""
    table = np.zeros((1 + rows * cols, width))
    quarter = width // 4
    for row in range(rows):
        for col in range(cols):
            for i in range(quarter):
                w = 10000 ** (-i / quarter)
                place = 1 + row * cols + col
                table[place, i], table[place, quarter + i] = np.sin(col * w), np.cos(col * w)
                table[place, 2 * quarter + i], table[place, 3 * quarter + i] = np.sin(row * w), np.cos(row * w)
    return table


# --- networks ---------------------------------------------------------------------------------------------------------


def patches(picture: Array, p: int) -> Array:
    """Rows of pixels in the order (row in patch, column in patch, channel)."""
    c, h, w = picture.shape
    corners = [(top, left) for top in range(0, h, p) for left in range(0, w, p)]
    cell = [(i, j, ch) for i in range(p) for j in range(p) for ch in range(c)]
    return np.array([[picture[ch, top + i, left + j] for i, j, ch in cell] for top, left in corners])


def encode(picture: Array, ids: Array, w: Weights, *, patch: int, depth: int, heads: int) -> Array:
    """[class token, the patches `ids`] after the encoder: one fold of one picture."""
    kernel = w["patch_embed.proj.weight"].transpose(0, 2, 3, 1).reshape(w["norm.weight"].shape[0], -1)
    x = patches(picture, patch) @ kernel.T + w["patch_embed.proj.bias"] + w["pos_embed"][0, 1:]
    x = np.concatenate([w["cls_token"][0] + w["pos_embed"][0, :1], x[ids]])
    for i in range(depth):
        x = block(x, w, f"blocks.{i}", heads)
    return layer_norm(x, w, "norm")


def encode_window(
    picture: Array, ids: Array, hidden: Array, mask_token: Array, w: Weights, *, patch: int, depth: int, heads: int
) -> Array:
    """[class token, the patches `ids`] of a window with mask tokens where `hidden`, places known by distance only."""
    kernel = w["patch_embed.proj.weight"].transpose(0, 2, 3, 1).reshape(w["norm.weight"].shape[0], -1)
    x = patches(picture, patch) @ kernel.T + w["patch_embed.proj.bias"]
    x = np.where(hidden[:, None], mask_token, x[ids])
    x = np.concatenate([w["cls_token"][0], x])
    side = picture.shape[2] // patch
    places: Places = [None, *((int(i) // side, int(i) % side) for i in ids)]
    for i in range(depth):
        x = block(x, w, f"blocks.{i}", heads, places)
    return layer_norm(x, w, "norm")


def decode(tokens: Array, ids_keep: Array, w: Weights, *, num_patches: int, depth: int, heads: int) -> Array:
    """[class token, all patches] after the decoder and its prediction."""
    seen = linear(tokens, w, "embed")
    x = np.repeat(w["mask_token"][0], 1 + num_patches, axis=0)
    x[0] = seen[0]
    for row, patch in enumerate(ids_keep):
        x[1 + patch] = seen[1 + row]
    x = x + w["positions"]
    for i in range(depth):
        x = block(x, w, f"blocks.{i}", heads)
    return linear(layer_norm(x, w, "norm"), w, "predict")


def head(x: Array, w: Weights, trunk: int = 0, prototypes: int = 0) -> Array:
    """Cosines with the prototypes."""
    return project(x, w, trunk) @ unit(w[f"prototypes.{prototypes}.weight"]).T


def project(x: Array, w: Weights, trunk: int = 0) -> Array:
    """Three linear layers, and unit length."""
    for i in (0, 2):
        x = gelu(linear(x, w, f"trunks.{trunk}.{i}"))
    return unit(linear(x, w, f"trunks.{trunk}.4"))


# --- targets and losses -----------------------------------------------------------------------------------------------


def unit(x: Array) -> Array:
    return x / np.sqrt((x**2).sum(-1, keepdims=True))


def standardise(x: Array) -> Array:
    """Per row: unbiased variance, 1e-6 below the root."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, ddof=1, keepdims=True) + 1e-6)


def cosine(a: Array, b: Array) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def sinkhorn(logits: Array, temperature: float, iterations: int = 3) -> Array:
    """DINOv2's order, in the linear domain: prototypes first, then samples."""
    q = np.exp(logits / temperature).T
    prototypes, samples = q.shape
    q = q / q.sum()
    for _ in range(iterations):
        q = q / q.sum(1, keepdims=True) / prototypes
        q = q / q.sum(0, keepdims=True) / samples
    return (q * samples).T


def cross_entropy(logits: Array, target: Array, temperature: float) -> float:
    """Of one row."""
    return -float((target * np.log(softmax(logits / temperature))).sum())

"""Weighted nearest neighbours on frozen features (Wu et al. 2018; DINO's protocol): what monitors and `evaluate knn` ask."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def knn_predict(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m d"],
    *,
    k: int = 20,
    temperature: float = 0.07,
    num_classes: int,
) -> Int[Tensor, " m"]:
    """The class with the largest vote among the k most similar training pictures; of equal votes the lowest class.

    argmax_c sum_{j in N_k} exp(cos(q, x_j) / temperature) [y_j = c]. k is at most the number of training pictures.
    """
    similarity, nearest = neighbours(train, queries, k)
    return vote(similarity, train_labels[nearest], temperature, num_classes)


def knn_accuracies(
    train: Float[Tensor, "n d"],
    train_labels: Int[Tensor, " n"],
    queries: Float[Tensor, "m d"],
    labels: Int[Tensor, " m"],
    *,
    ks: tuple[int, ...],
    temperature: float,
    num_classes: int,
) -> dict[int, float]:
    """Share of queries whose class is predicted, for each k, with one search for all of them."""
    similarity, nearest = neighbours(train, queries, max(ks))
    votes = train_labels[nearest]
    predicted = {k: vote(similarity[:, :k], votes[:, :k], temperature, num_classes) for k in ks}
    return {k: float((classes == labels).double().mean()) for k, classes in predicted.items()}


def neighbours(
    train: Float[Tensor, "n d"], queries: Float[Tensor, "m d"], k: int
) -> tuple[Float[Tensor, "m k"], Int[Tensor, "m k"]]:
    """Cosines and numbers of the k most similar training pictures, most similar first, in float32.

    The queries are taken in chunks, so that 256 MiB of cosines are held at most.
    """
    bank = F.normalize(train.float(), dim=1).T
    chunk = max(1, 2**26 // len(train))
    found = [(F.normalize(part.float(), dim=1) @ bank).topk(min(k, len(train)), dim=1) for part in queries.split(chunk)]
    return torch.cat([top.values for top in found]), torch.cat([top.indices for top in found])


def vote(
    similarity: Float[Tensor, "m k"], labels: Int[Tensor, "m k"], temperature: float, num_classes: int
) -> Int[Tensor, " m"]:
    """The class with the largest sum of exp(similarity / temperature)."""
    weights = (similarity / temperature).exp()
    return weights.new_zeros(len(labels), num_classes).scatter_add_(1, labels, weights).argmax(dim=1)

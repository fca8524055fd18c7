import numpy as np
import pytest
import torch

from tutelage.neighbours import knn_accuracies, knn_predict, neighbours


def vote_by_hand(train, labels, queries, k, temperature, num_classes):
    """argmax_c sum over the k nearest of exp(cos / temperature) [y = c], in NumPy and float64, one query at a time."""
    predicted = []
    for q in queries:
        cosines = train @ q / (np.linalg.norm(train, axis=1) * np.linalg.norm(q))
        votes = np.zeros(num_classes)
        for j in np.argsort(-cosines)[:k]:
            votes[labels[j]] += np.exp(cosines[j] / temperature)
        predicted.append(votes.argmax())
    return np.array(predicted)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_the_vote_is_the_published_one(k, temperature):
    rng = np.random.default_rng(k)
    train, queries = rng.normal(size=(60, 8)), rng.normal(size=(40, 8))
    train *= rng.uniform(0.1, 10, size=(60, 1))  # a cosine does not see lengths
    labels = rng.integers(0, 4, size=60)
    expected = vote_by_hand(train, labels, queries, k, temperature, 4)
    tensors = (torch.tensor(train), torch.tensor(labels), torch.tensor(queries))
    predicted = knn_predict(*tensors, k=k, temperature=temperature, num_classes=4)
    assert predicted.tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 1


def test_a_few_near_neighbours_outvote_many_far_ones():
    train = torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.7, 0.7], [0.7, 0.7]])
    labels = torch.tensor([0, 1, 1, 1])
    query = torch.tensor([[1.0, 0.05]])
    assert knn_predict(train, labels, query, k=4, temperature=0.07, num_classes=2).item() == 0
    assert knn_predict(train, labels, query, k=4, temperature=10.0, num_classes=2).item() == 1


def test_a_duplicated_training_set_is_recognised_whole():
    x, labels = torch.randn(50, 16), torch.randint(0, 7, (50,))
    bank, bank_labels = torch.cat([x, x]), torch.cat([labels, labels])
    assert knn_accuracies(bank, bank_labels, x, labels, ks=(1, 2), temperature=0.07, num_classes=7) == {1: 1.0, 2: 1.0}


def test_more_neighbours_than_pictures_are_all_pictures():
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 0, 1])
    few = knn_predict(x, labels, x, k=6, num_classes=2)
    assert torch.equal(knn_predict(x, labels, x, k=200, num_classes=2), few)


def test_neighbours_do_not_depend_on_how_many_queries_are_asked_at_once():
    train, queries = torch.randn(300, 8), torch.randn(40, 8)
    together = neighbours(train, queries, 5)[1]
    assert torch.equal(together, torch.cat([neighbours(train, q[None], 5)[1] for q in queries]))


def test_each_k_gets_the_accuracy_it_would_get_alone():
    x, labels = torch.randn(80, 6), torch.randint(0, 3, (80,))
    queries, truth = torch.randn(50, 6), torch.randint(0, 3, (50,))
    options = {"temperature": 0.07, "num_classes": 3}
    together = knn_accuracies(x, labels, queries, truth, ks=(3, 10), **options)
    for k in (3, 10):
        alone = (knn_predict(x, labels, queries, k=k, **options) == truth).double().mean()
        assert together[k] == pytest.approx(float(alone))

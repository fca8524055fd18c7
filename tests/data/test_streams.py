import threading
import time

import numpy as np
import pytest
import torch

from tutelage.batch import Batch, Stream
from tutelage.data.crops import eval_view
from tutelage.data.index import ArraySource, Pictures, open_data
from tutelage.data.streams import PictureStream, batches, default_workers, eval_batches
from tutelage.data.views import ViewsSettings
from tutelage.errors import DataError, SettingsError

from .pictures_on_disk import damage, fill

VIEWS = ("simple", "complex")


def some_pictures(count: int = 23, channels: int = 3) -> Pictures:
    images = np.random.default_rng(0).integers(0, 256, (count, 12, 10, channels), dtype=np.uint8)
    return Pictures(ArraySource(images, "x"), np.arange(count), np.arange(count) % 3, ("a", "b", "c"))


def stream(count: int = 23, views: tuple[str, ...] = VIEWS, seed: int = 5) -> PictureStream:
    return PictureStream(some_pictures(count), Stream(views), ViewsSettings(), (8, 8), num_patches=16, seed=seed)


def same(a: Batch, b: Batch) -> bool:
    tensors = lambda x: (*x.views, *x.keys, x.labels, x.indices)  # noqa: E731
    return all(torch.equal(s, t) and s.dtype == t.dtype for s, t in zip(tensors(a), tensors(b), strict=True))


def rows(batch: Batch, chosen: list[int]) -> Batch:
    pick = lambda x: x[chosen]  # noqa: E731
    return Batch(tuple(map(pick, batch.views)), tuple(map(pick, batch.keys)), pick(batch.labels), pick(batch.indices))


def indices(steps: list[list[Batch]]) -> list[int]:
    return [int(i) for micro in steps for batch in micro for i in batch.indices]


def test_a_batch_has_views_keys_labels_and_indices():
    batch = stream().batch(np.arange(7))
    assert [view.shape for view in batch.views] == [(7, 3, 8, 8)] * 2
    assert all(view.dtype == torch.uint8 for view in batch.views)
    assert [keys.shape for keys in batch.keys] == [(7, 16)] * 2
    assert torch.equal(batch.labels, batch.indices % 3)
    assert not torch.equal(batch.keys[0], batch.keys[1])
    assert (batch.keys[0].min() >= 0) and (batch.keys[0].max() < 1)


def test_a_position_decides_everything_about_its_row():
    whole = stream().batch(np.arange(100))
    chosen = [99, 3, 50, 3]
    assert same(stream().batch(np.array(chosen)), rows(whole, chosen))


def test_seeds_and_epochs_change_everything():
    first, other_seed = stream(seed=1).batch(np.arange(23)), stream(seed=2).batch(np.arange(23))
    next_epoch = stream(seed=1).batch(np.arange(23, 46))
    for other in (other_seed, next_epoch):
        assert not torch.equal(first.indices, other.indices)
        assert not torch.equal(first.keys[0], other.keys[0])
        # The same picture is not cropped alike.
        i, j = first.indices.argsort(), other.indices.argsort()
        assert (first.views[0][i] != other.views[0][j]).flatten(1).any(dim=1).sum() > 18


def test_a_view_more_does_not_change_the_first():
    one, two = stream(views=("simple",)).batch(np.arange(30)), stream(views=VIEWS).batch(np.arange(30))
    assert torch.equal(one.views[0], two.views[0])
    assert torch.equal(one.keys[0], two.keys[0])


def test_two_views_of_one_kind_differ():
    batch = stream(views=("simple", "simple")).batch(np.arange(20))
    assert not torch.equal(batch.views[0], batch.views[1])


def test_every_picture_is_seen_once_an_epoch_whatever_the_batch():
    steps = list(batches(stream(23), first_step=0, last_step=23, batch_size=8))
    seen = indices(steps)
    assert len(seen) == 8 * 23
    for epoch in range(8):
        assert sorted(seen[epoch * 23 : (epoch + 1) * 23]) == list(range(23))


def test_a_later_start_continues_the_same_steps():
    whole = list(batches(stream(), first_step=0, last_step=9, batch_size=8))
    rest = list(batches(stream(), first_step=6, last_step=9, batch_size=8))
    assert len(rest) == 3
    assert all(same(a[0], b[0]) for a, b in zip(whole[6:], rest, strict=True))


@pytest.mark.parametrize(("micro_batches", "world"), [(1, 2), (2, 1), (2, 3), (3, 4)])
def test_ranks_and_micro_batches_share_a_step_without_loss(micro_batches, world):
    s = stream()
    for step in (0, 2):
        positions = np.arange(step * 24, (step + 1) * 24)
        part = 24 // micro_batches
        for m in range(micro_batches):
            for rank in range(world):
                options = {"micro_batches": micro_batches, "rank": rank, "world": world}
                mine = next(batches(s, first_step=step, last_step=step + 1, batch_size=24, **options))
                assert len(mine) == micro_batches
                assert same(mine[m], s.batch(positions[m * part : (m + 1) * part][rank::world]))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_do_not_change_a_bit(workers):
    options = {"first_step": 1, "last_step": 8, "batch_size": 8, "micro_batches": 2}
    alone = list(batches(stream(), **options))
    helped = list(batches(stream(), **options, workers=workers))
    assert len(alone) == len(helped) == 7
    for a, b in zip(alone, helped, strict=True):
        assert all(same(x, y) for x, y in zip(a, b, strict=True))


def running() -> int:
    return sum(thread.name.startswith("pictures") for thread in threading.enumerate())


def test_a_closed_stream_stops_its_workers():
    steps = batches(stream(), first_step=0, last_step=10**9, batch_size=8, workers=2)
    next(steps)
    assert running() > 0
    steps.close()
    deadline = time.monotonic() + 5
    while running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running() == 0


def test_threads_by_default_where_pictures_are_decoded_beside_a_gpu(tmp_path, monkeypatch):
    fill(tmp_path, 8)
    files = open_data(str(tmp_path), holdout=0.0).train
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    assert [default_workers(pictures, gpu) for pictures in (files, some_pictures())] == [6, 1]
    assert [default_workers(pictures, cpu) for pictures in (files, some_pictures())] == [0, 0]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert default_workers(files, gpu) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_come_through(tmp_path, workers):
    fill(tmp_path, 8)
    pictures = open_data(str(tmp_path), holdout=0.0).train
    s = PictureStream(pictures, Stream(("simple",)), ViewsSettings(), (8, 8), 4, seed=0)
    steps = batches(s, first_step=0, last_step=1000, batch_size=4, workers=workers)
    next(steps)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="D-07"):
        list(steps)
    assert running() == 0


def test_a_replaced_picture_brings_its_own_label_and_index(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path / label, 4)
    pictures = open_data(str(tmp_path), holdout=0.0).train
    gone = int(np.flatnonzero(pictures.labels == 0)[-1])
    damage(tmp_path / pictures.name(gone))
    s = PictureStream(pictures, Stream(("simple",)), ViewsSettings(), (8, 8), 4, seed=0)
    batch = s.batch(np.arange(len(pictures)))
    assert gone not in batch.indices
    assert (batch.indices == gone + 1).sum() == 2
    assert batch.labels.tolist() == pictures.labels[batch.indices.numpy()].tolist()


def test_batches_that_cannot_be_shared_are_refused():
    with pytest.raises(SettingsError, match="multiple of 6"):
        next(batches(stream(), first_step=0, last_step=1, batch_size=8, micro_batches=2, world=3))


def test_unknown_views_are_refused_with_the_nearest_name():
    with pytest.raises(SettingsError, match="simple"):
        stream(views=("simpel",))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluations_see_every_picture_once_in_order_and_plain(workers):
    pictures = some_pictures(23)
    seen = list(eval_batches(pictures, (8, 8), 10, workers, num_patches=4))
    assert [len(batch.labels) for batch in seen] == [10, 10, 3]
    assert torch.cat([batch.indices for batch in seen]).tolist() == list(range(23))
    views = torch.cat([batch.views[0] for batch in seen])
    for i in (0, 11, 22):
        assert torch.equal(views[i], eval_view(pictures.read(i), (8, 8)))
    keys = torch.cat([batch.keys[0] for batch in seen])
    again = torch.cat([batch.keys[0] for batch in eval_batches(pictures, (8, 8), 7, num_patches=4)])
    assert keys.shape == (23, 4) and torch.equal(keys, again)

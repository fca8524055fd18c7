"""A checkpoint proves which pictures were trained on: none skipped, repeated or exchanged (2.1, K-18)."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from states import rewritten, short_run

from small_runs import tiny
from tutelage.batch import Stream
from tutelage.data.index import open_data
from tutelage.data.order import mix, permute
from tutelage.engine import chain as chains
from tutelage.engine.chain import DataChain, Links
from tutelage.engine.feeds import open_feeds
from tutelage.errors import CheckpointError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    short_run(out)
    return out


def test_a_data_chain_of_other_pictures_is_refused(finished: Path, tmp_path: Path, monkeypatch) -> None:
    """K-18, from the first step on, and of a long run from the checkpoint before."""
    for whole in (chains.WHOLE, 100):
        monkeypatch.setattr(chains, "WHOLE", whole)
        out = tmp_path / f"run-{whole}"
        shutil.copytree(finished, out)
        short_run(out)
        newest = out / "checkpoints/step-00000012"
        rewritten(newest, lambda v: v["links"].update(digest=f"{int(v['links']['digest'], 16) ^ 1:016x}"))
        with pytest.raises(
            CheckpointError, match=r"K-18: .*step-00000012 was not trained on the pictures that were due"
        ) as error:
            short_run(out)
        assert error.value.exit_code == 4


def test_a_run_that_skips_or_repeats_a_batch_is_found_out_when_it_goes_on(tmp_path: Path, monkeypatch) -> None:
    """The chain is of the batches that were trained on, and not of those that should have been."""
    from tutelage.engine import feeds as engine

    real = engine.batches
    for number, order in enumerate(([0, 1, 1, 3], [0, 2, 3, 4], [0, 1, 2, 4])):
        with monkeypatch.context() as patched:

            def shuffled(*arguments: Any, order: list[int] = order, **options: Any) -> Any:
                steps = list(real(*arguments, **options))
                yield from (steps[i] for i in [*order, *range(4, len(steps))])

            patched.setattr(engine, "batches", shuffled)
            short_run(tmp_path / str(number))
        with pytest.raises(CheckpointError, match="K-18"):
            short_run(tmp_path / str(number))


# --- the chain itself, written again in plain integers -----------------------------------------------------------------


def splitmix(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return x ^ x >> 31


def link(position: int, picture: int) -> int:
    return splitmix(splitmix((position + 0x9E3779B97F4A7C15) % 2**64) ^ picture)


@pytest.mark.parametrize(("world", "micro_batches"), [(1, 1), (2, 1), (4, 2)])
def test_the_chain_is_the_sum_of_links_on_any_number_of_processes(world: int, micro_batches: int) -> None:
    settings = tiny("mae", batch_size=96, seed=3)
    data = open_data("digits")
    streams = {"first": Stream(("simple",), share=2), "second": Stream(("simple",), labels="known")}
    pictures = data.train.subset(np.arange(70))
    feeds = open_feeds(streams, pictures, settings)
    other = mix(3, "stream", "second") % 2**63
    total = 0
    for rank in range(world):
        chain = DataChain()
        source = feeds.steps(0, 3, micro_batches=micro_batches, rank=rank, world=world)
        seen = [
            int(i) for step in chain.follow(source) for batch in step for part in batch.values() for i in part.indices
        ]
        assert len(seen) == 3 * 96 // world
        total += int(chain.at(3, torch.device("cpu")).digest, 16)
    expected = sum(
        link(p, int(permute(np.array([p % 70]), 70, seed, p // 70)[0]))
        for seed, count in ((3, 64), (other, 32))
        for p in range(3 * count)
    )
    assert total % 2**64 == expected % 2**64
    links = Links(digest=f"{total % 2**64:016x}", before_step=0, before="0" * 16)
    assert links.differs(3, feeds) is None
    assert links.differs(2, feeds) is not None
    assert links.differs(3, open_feeds(streams, pictures, settings.model_copy(update={"seed": 4}))) is not None


def test_two_pictures_that_change_places_make_another_chain() -> None:
    assert (link(5, 1) + link(6, 2)) % 2**64 != (link(5, 2) + link(6, 1)) % 2**64

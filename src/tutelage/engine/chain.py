"""The data chain: which picture was trained on at which place of the run, in 64 bits.

Every place and its picture are hashed together to a link (`tutelage.data.order.links`), and the chain is the sum of the links
modulo 2^64: it depends neither on the order nor on which process had which pictures. Each batch brings the links of the
places it was made for, the loop adds up those of the batches it was given, and a checkpoint keeps the sum. As the order of
pictures is a function of seed and place, anyone can compute what it should be: a picture left out, repeated or
exchanged makes another sum. A link is of the picture that was due: where that was damaged and another took its place,
`unreadable` in the run's events tells so, and the chain does not.
"""

from collections.abc import Iterator

import numpy as np
import torch

from tutelage.config import NonNegativeInt, Settings
from tutelage.distributed import all_sum
from tutelage.engine.feeds import Feeds, Micro

WHOLE = 1 << 22
"""Pictures up to which a run's chain is checked from its first step on; it takes about two seconds."""
_HALF = 1 << 32


class Links(Settings):
    """The chain at a checkpoint, and at the one before it."""

    digest: str
    """16 hexadecimal digits."""
    before_step: NonNegativeInt
    before: str

    def differs(self, step: int, feeds: Feeds) -> str | None:
        """None where this is the chain of a run's steps up to `step`, else what it should be.

        Of runs longer than `WHOLE` pictures only the stretch since the checkpoint before is checked: computing an order
        again takes half a microsecond for each picture, three minutes for 300 epochs of ImageNet.
        """
        whole = step * feeds.batch_size <= WHOLE
        first, digest = (0, 0) if whole else (self.before_step, int(self.before, 16))
        expected = (digest + feeds.chain(first, step)) % 2**64
        return None if expected == int(self.digest, 16) else f"{expected:016x}"


class DataChain:
    """Adds up the links of what this process trains on."""

    def __init__(self, step: int = 0, digest: str = "0" * 16) -> None:
        self._own = 0
        self._begun = int(digest, 16)
        self._before = (step, digest)

    def follow(self, batches: Iterator[list[Micro]]) -> Iterator[list[Micro]]:
        """The same batches: each counts once it is handed over."""
        for micro_batches in batches:
            for batch in micro_batches:
                for part in batch.values():
                    self._own += int(part.links.numpy().view(np.uint64).sum())
            yield micro_batches

    def at(self, step: int, device: torch.device) -> Links:
        """The chain over all processes, which all call this together, at a checkpoint of `step`."""
        own = self._own % 2**64
        low, high = all_sum(torch.tensor([own % _HALF, own // _HALF], dtype=torch.int64, device=device)).tolist()
        digest = f"{(self._begun + low + high * _HALF) % 2**64:016x}"
        links = Links(digest=digest, before_step=self._before[0], before=self._before[1])
        self._before = (step, digest)
        return links

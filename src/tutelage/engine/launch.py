"""One process or several: the process group, the device, the precision, and the wish to stop."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

import torch
import torch.distributed as dist

from tutelage.errors import MachineError

_RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def launched(wanted: Literal["cpu", "cuda"] | None) -> Iterator[torch.device]:
    """The device of this process; under torchrun with the process group (gloo on CPU, NCCL on GPUs) around it.

    Leftovers of another launcher in the environment are ignored unless all four of torchrun's variables are there.
    """
    kind = _device_kind(wanted)
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device(kind, local) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    begin = all(name in os.environ for name in _RENDEZVOUS) and not dist.is_initialized()
    if begin:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", device_id=device if kind == "cuda" else None)
    try:
        yield device
    finally:
        if begin:
            dist.destroy_process_group()


def _device_kind(wanted: Literal["cpu", "cuda"] | None) -> Literal["cpu", "cuda"]:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise MachineError(
            "R-21", "--device cuda: torch sees no usable GPU here.", todo="Use --device cpu, or mend the driver."
        )
    return wanted or ("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 natively. A CPU that only emulates it is some 20 times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)


class StopRequest:
    """Set by Ctrl-C or a signal; the loop finishes its step, saves and ends. A second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.wanted = False

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handle SIGINT and SIGTERM while the loop runs. Handlers set a flag and nothing else."""
        signals = (signal.SIGINT, signal.SIGTERM)
        try:
            before = [signal.signal(number, self._handle) for number in signals]
        except ValueError:  # not in the main thread: the caller handles signals
            yield self
            return
        try:
            yield self
        finally:
            for number, handler in zip(signals, before, strict=True):
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True

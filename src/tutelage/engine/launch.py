"""One process or several: the process group, the device, the precision, and the wish to stop."""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from tutelage.errors import DistributedError, MachineError

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
_PR_SET_PDEATHSIG = 1
_RENDEZVOUS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def launched(wanted: Literal["cpu", "cuda"] | None) -> Iterator[torch.device]:
    """The device of this process; under torchrun with the process group (gloo on CPU, NCCL on GPUs) around it.

    Leftovers of another launcher in the environment are ignored unless all four of torchrun's variables are there.
    """
    kind, together = _device_kind(wanted), _under_launcher()
    local = int(os.environ.get("LOCAL_RANK", 0)) if together else 0
    device = torch.device(kind, local) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        _use(device)
    begin = together and not dist.is_initialized()
    if begin:
        _meet(device)
    try:
        yield device
    finally:
        if begin:
            dist.destroy_process_group()


def _under_launcher() -> bool:
    """Whether this is one of several processes. Raises DistributedError P-02 where what says so makes no sense."""
    given = {name: os.environ[name] for name in _RENDEZVOUS if name in os.environ}
    if len(given) < len(_RENDEZVOUS):
        return False
    numbers = [given["RANK"], given["WORLD_SIZE"], given["MASTER_PORT"], os.environ.get("LOCAL_RANK", "0")]
    if all(number.isascii() and number.isdigit() for number in numbers) and int(given["RANK"]) < int(
        given["WORLD_SIZE"]
    ):
        return True
    told = ", ".join(f"{name}={value}" for name, value in given.items())
    raise DistributedError(
        "P-02",
        f"the environment says that this is one of several processes, and makes no sense: {told}.",
        "It may be left over from another launcher.",
        f"Start with torchrun, or without it: unset {' '.join(_RENDEZVOUS)}.",
    )


def _use(device: torch.device) -> None:
    """Compute on this GPU. Raises MachineError R-21."""
    try:
        torch.cuda.set_device(device)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise MachineError(
            "R-21", f"{device} cannot be used: {reason}.", todo="Use --device cpu, or mend the driver."
        ) from error
    torch.set_float32_matmul_precision("high")


def _meet(device: torch.device) -> None:
    """Make the process group. A restart by torchrun meets under keys of its own.

    torch 2.15 keeps the launcher's store over restarts: under the old keys the processes wait at the sockets of the dead.

    Raises:
        DistributedError: P-03, another program listens where the processes are to meet.

    """
    try:
        store, number, world = next(iter(rendezvous("env://")))
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error) and "address already in use" not in str(error):
            raise
        raise DistributedError(
            "P-03",
            f"port {os.environ['MASTER_PORT']}, where the processes are to meet, is used by another program.",
            todo="Use torchrun --standalone, which finds a free one, or --master-port with another.",
        ) from error
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=dist.PrefixStore(f"restart-{restart}", store),  # type: ignore[attr-defined]
        rank=number,
        world_size=world,
        device_id=device if device.type == "cuda" else None,
    )


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


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: on a GPU of its tensors, else of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux hands a program started by another the other's ru_maxrss; the peak in this file is its own.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    own = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
    return own or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class StopRequest:
    """Made by Ctrl-C, SIGTERM, SIGUSR1, SIGUSR2 or a file STOP in a run folder: the loop finishes its step, saves and ends.

    A second Ctrl-C ends at once. Before the loop there is nothing to save, and a signal ends the process with code 75.
    """

    def __init__(self, *runs: Path) -> None:
        self.files = [run / "STOP" for run in runs]
        self.training = False
        """The loop runs: from now on handlers set a flag and nothing else."""
        self._told = False
        self._next_look = 0.0

    @property
    def wanted(self) -> bool:
        """Whether to stop; the file is looked for once a second."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + 1.0
            self._told |= any(file.exists() for file in self.files)
        return self._told

    def obeyed(self) -> None:
        """Take the files away, so that the same command goes on."""
        for file in self.files:
            file.unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handle the signals, and under a launcher its death."""
        if _under_launcher():
            _end_with_parent()
        try:
            before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        except ValueError:  # not in the main thread: the caller handles signals
            yield self
            return
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self._told or not self.training):
            raise KeyboardInterrupt
        if not self.training:
            raise SystemExit(75)
        self._told = True


def _end_with_parent() -> None:
    """Ask Linux for a SIGTERM when the launcher dies, so that no orphan trains on; elsewhere nothing is asked."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

"""What every process of a run is doing: each tells the others, and whoever waits in vain learns for whom.

A process that is frozen stops telling, one that is stuck tells the same for too long. Either ends the run with exit code 7
and the name of the process and of what it was in, where a collective would wait for its timeout and then name nobody.
Ages are counted from when a change was last seen, by one's own steady clock: clocks of other machines are not compared. A
process that was suspended itself (Ctrl-Z, a paused machine) leaves that time out.
"""

import faulthandler
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tutelage.data.sources import IN_FLIGHT
from tutelage.errors import DistributedError, listed, printable

BEAT = 2.0
"""Seconds between two beats."""
FROZEN = 40.0
"""Seconds without a beat after which a process counts as frozen or gone."""

Section = Literal["starting", "data", "step", "watching", "saving", "finishing"]


@dataclass
class _Seen:
    """The last beat of another process, and when it was new."""

    beat: dict[str, Any]
    at: float


@contextmanager
def naming_the_lost(pulse: "Pulse") -> Iterator[None]:
    """What a collective raises when another process ended says which socket closed; say which process.

    Raises:
        DistributedError: P-05, in place of the collective's error.

    """
    try:
        yield
    except RuntimeError as error:
        time.sleep(BEAT if pulse.world > 1 else 0)  # the process that we waited for may be ending just now
        for lost in pulse.gone():
            raise DistributedError(
                "P-05",
                f"{pulse.told_of(lost)}, is gone.",
                "The others cannot go on without it; what was saved before is untouched.",
                "Look at its output first; the same command goes on.",
            ) from error
        raise


class Pulse:
    """Beats in a thread of its own while the run lasts; `enter` says what the process does now."""

    def __init__(self, run: Path, rank: int, world: int, stuck_minutes: float) -> None:
        self.folder, self.rank, self.world, self.stuck = run / "pulse", rank, world, stuck_minutes * 60
        self.suspended = 0.0
        self.step, self.section, self.entered = 0, "starting", self._awake()
        self._seen: dict[int, _Seen] = {}
        self._over = threading.Event()
        self._count = 0

    @contextmanager
    def beating(self) -> Iterator["Pulse"]:
        """Beat until the block ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write()
        thread = threading.Thread(target=self._watch, name="pulse", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()
            with suppress(OSError):  # the disk may have turned read-only
                self._file(self.rank).unlink(missing_ok=True)

    def enter(self, section: Section, step: int) -> None:
        """Say that this process does this now, at this step."""
        self.step, self.section, self.entered = step, section, self._awake()

    def told_of(self, rank: int) -> str:
        """A process by number, place and what it did last."""
        beat = self._seen[rank].beat if rank in self._seen else {}
        where = f"host {beat['host']}, pid {beat['pid']}" if beat else "never heard of"
        return f"process {rank} ({where}), at step {beat.get('step', 0)} in {beat.get('section', 'starting')}"

    def gone(self) -> list[int]:
        """Processes that have not beaten for long, or of this machine that are no more."""
        return [r for r in range(self.world) if r != self.rank and (self._frozen(r) or self._dead(r))]

    def _watch(self) -> None:
        slept_at = time.monotonic()
        while not self._over.wait(BEAT):
            self.suspended += time.monotonic() - slept_at - BEAT
            self._write()
            for rank in range(self.world):
                self._look(rank)
            frozen = [r for r in range(self.world) if r != self.rank and self._frozen(r)]
            if frozen and not self._over.is_set():
                self._end(f"P-06: {self.told_of(frozen[0])}, has not moved for {FROZEN:.0f} seconds.")
            elif self._awake() - self.entered > self.stuck:
                minutes = self.stuck / 60
                self._end(
                    f"P-07: process {self.rank}, at step {self.step}, is in {self.section} for {minutes:g} minutes."
                )
            slept_at = time.monotonic()

    def _awake(self) -> float:
        """Seconds on a steady clock that stands while this process is suspended."""
        return time.monotonic() - self.suspended

    def _write(self) -> None:
        self._count += 1
        beat = {
            "rank": self.rank, "host": platform.node(), "pid": os.getpid(), "step": self.step, "section": self.section,
            "count": self._count,
        }  # fmt: skip
        temporary = self.folder / f".rank-{self.rank}-{os.getpid()}"
        try:
            temporary.write_text(json.dumps(beat), encoding="utf-8")
            temporary.replace(self._file(self.rank))
        except OSError:  # a full disk is the saving's to report
            return

    def _look(self, rank: int) -> None:
        try:
            beat = json.loads(self._file(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            beat = None
        seen = self._seen.get(rank)
        if seen is None or (beat is not None and beat != seen.beat):
            self._seen[rank] = _Seen(beat or {}, self._awake())

    def _frozen(self, rank: int) -> bool:
        seen = self._seen.get(rank)
        if seen is None:
            return False
        return self._awake() - seen.at > (FROZEN if seen.beat else self.stuck)

    def _dead(self, rank: int) -> bool:
        beat = self._seen[rank].beat if rank in self._seen else {}
        if beat.get("host") != platform.node():
            return False
        try:
            os.kill(int(beat["pid"]), 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.json"

    def _end(self, what: str) -> None:
        """Say so, keep where every thread stands, and end the process: the thread that hangs cannot be asked to."""
        stacks = self.folder / f"stacks-{self.rank}.txt"
        with stacks.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
        reading = listed([printable(str(path)) for path in IN_FLIGHT.values()])
        files = f"It was reading {reading}. " if reading else ""
        told = f"{what} {files}The others wait for it in vain. Where this process stands is in {stacks}; start the run again."
        sys.stderr.write(told + "\n")
        sys.stderr.flush()
        os._exit(7)

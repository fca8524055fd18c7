"""One writer for a run folder: races, leases left by the dead, one that was frozen and replaced (K1, K2, I9, I11, B8)."""

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from crashes import in_a_child
from worlds import STEPS, begin, ended, events, fingerprint, last_step, said, wait_for

from tutelage.engine import lease as leases
from tutelage.engine.lease import STALE, Lease
from tutelage.engine.run import RunFolder
from tutelage.errors import MachineError, SettingsError


def contenders(folder: Path, results: Path, count: int) -> list[str]:
    """What became of `count` processes that all try to open the run at once, and hold it until all have tried."""
    (start, go), (over, end) = os.pipe(), os.pipe()
    pids = []
    for number in range(count):
        if pid := os.fork():
            pids.append(pid)
            continue
        try:
            os.close(go)
            os.close(end)
            os.read(start, 1)  # returns when the parent lets go of the other end
            try:
                run = RunFolder(folder)
                run.check()
                (results / f"{number}.part").write_text("won")
            except SettingsError as error:
                (results / f"{number}.part").write_text(str(error))
            (results / f"{number}.part").rename(results / f"{number}")
            os.read(over, 1)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    os.close(go)
    limit = time.monotonic() + 60
    while len([path for path in results.iterdir() if not path.suffix]) < count:
        assert time.monotonic() < limit, "a contender ended without an answer"
        time.sleep(0.002)
    os.close(end)
    for pid in pids:
        os.waitpid(pid, 0)
    for descriptor in (start, over):
        os.close(descriptor)
    return [(results / str(number)).read_text() for number in range(count)]


def nothing(folder: Path) -> None:
    """The folder is not there yet."""


def given_back(folder: Path) -> None:
    """A run ended in it."""
    RunFolder(folder).close()


def left_by_the_dead(folder: Path) -> None:
    """A run was killed in it."""

    def work() -> None:
        RunFolder(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    assert in_a_child(work) == -signal.SIGKILL


def left_by_another_machine(folder: Path) -> None:
    """The last heartbeat of another machine's run is minutes old."""
    folder.mkdir()
    file = folder / ".lease-7"
    file.write_text(json.dumps({"pid": 1, "host": "elsewhere", "place": "elsewhere", "born": "", "nonce": "x"}))
    os.utime(file, (time.time() - STALE - 5,) * 2)


STATES: list[Callable[[Path], None]] = [nothing, given_back, left_by_the_dead, left_by_another_machine]


def test_of_many_that_begin_at_once_one_wins(tmp_path: Path, amount, figure) -> None:
    races = amount(12, 24, 100)
    for race in range(races):
        folder, results = tmp_path / f"run-{race}", tmp_path / f"results-{race}"
        results.mkdir()
        STATES[race % len(STATES)](folder)
        told = contenders(folder, results, count=3 + race % 4)
        assert told.count("won") == 1, told
        assert all(text == "won" or text.startswith("K-01: ") for text in told)
        assert len(list(folder.glob(".lease-*"))) == 1
    figure("two runs into one folder", f"{races} races of 3 to 6, {races} single winners")


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    pattern = rf"^K-01: .*run is in use by pid {os.getpid()} on host \S+ since \d{{4}}-.* \(heartbeat \d s ago\)\."
    with pytest.raises(SettingsError, match=pattern) as refused:
        RunFolder(tmp_path / "run")
    assert refused.value.exit_code == 2
    run.close()
    RunFolder(tmp_path / "run").close()


@pytest.mark.parametrize(
    ("told", "age", "free"),
    [
        ({"place": "elsewhere"}, 3, False),
        ({"place": "elsewhere"}, STALE + 1, True),
        ({}, 3, False),  # here, and the process lives
        ({"pid": 2**22 + 1}, 3, True),  # no such process
        ({"born": "1"}, 3, True),  # its number is another's now
        ({"pid": "4321"}, 3, False),
        ({"pid": -1}, 3, False),
    ],
)
def test_a_lease_is_stale_when_its_process_or_its_heartbeat_is_gone(tmp_path, told, age, free) -> None:
    file = tmp_path / ".lease-3"
    file.write_text(json.dumps(leases._identity() | {"nonce": "x"} | told))
    os.utime(file, (time.time() - age,) * 2)
    if not free:
        with pytest.raises(SettingsError, match=rf"K-01.*heartbeat {age} s ago"):
            Lease.take(tmp_path)
        return
    taken = Lease.take(tmp_path)
    assert taken.number == 4 and not file.exists()
    taken.free()


@pytest.mark.parametrize("text", ["", "{", "[]", "\0\0\0", '{"pid": {}}'])
def test_a_lease_that_says_nothing_is_in_use_while_it_is_young_unless_it_was_given_back(tmp_path, text) -> None:
    file = tmp_path / ".lease-1"
    file.write_text(text)
    if text:
        with pytest.raises(SettingsError, match="K-01"):
            Lease.take(tmp_path)
        os.utime(file, (time.time() - STALE - 1,) * 2)
    Lease.take(tmp_path).free()


def test_who_took_a_dead_ones_place_cannot_lose_it_to_who_was_slower(tmp_path: Path, monkeypatch) -> None:
    """The race that renaming a stale lock loses: B judged it stale, A has taken it meanwhile, then B acts."""
    left_by_another_machine(tmp_path / "run")
    link, fast = leases._link, []

    def slow(own: Path, target: Path) -> None:
        monkeypatch.setattr(leases, "_link", link)
        fast.append(Lease.take(tmp_path / "run"))
        link(own, target)

    monkeypatch.setattr(leases, "_link", slow)
    with pytest.raises(SettingsError, match="K-01"):
        Lease.take(tmp_path / "run")
    fast[0].check()
    fast[0].free()


def test_who_judged_long_ago_and_finds_its_number_free_again_still_loses(tmp_path: Path, monkeypatch) -> None:
    link, others = leases._link, []

    def slow(own: Path, target: Path) -> None:
        monkeypatch.setattr(leases, "_link", link)
        for _ in range(3):
            others.append(Lease.take(tmp_path))
            if len(others) < 3:
                others[-1].free()
        link(own, target)

    monkeypatch.setattr(leases, "_link", slow)
    with pytest.raises(SettingsError, match="K-01"):
        Lease.take(tmp_path)
    others[-1].check()
    others[-1].free()


def test_without_links_in_the_file_system_it_works_too(tmp_path: Path, monkeypatch) -> None:
    def refused(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    held = Lease.take(tmp_path)
    with pytest.raises(SettingsError, match=f"K-01.*pid {os.getpid()}"):
        Lease.take(tmp_path)
    held.check()
    held.free()


@pytest.mark.long
def test_a_run_that_was_frozen_and_replaced_writes_nothing_more(tmp_path: Path) -> None:
    """I11: by the fence, before each commit, and by the heartbeat."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert ended(begin(whole)) == [0]
    frozen = begin(out)
    wait_for(out, random.Random(1).randint(5, 30), frozen)
    os.kill(frozen.pid, signal.SIGSTOP)
    time.sleep(0.2)
    stood_at = last_step(out)
    assert stood_at < STEPS
    (lease,) = out.glob(".lease-*")
    os.utime(lease, (time.time() - STALE - 1,) * 2)
    assert ended(begin(out)) == [0]
    os.kill(frozen.pid, signal.SIGCONT)
    assert ended(frozen) == [6]
    assert "K-22" in said(out) and "taken by another run" in said(out)
    assert fingerprint(out) == fingerprint(whole)
    assert len(events(out, "finished")) == 1


def test_a_heartbeat_keeps_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(leases, "BEAT", 0.05)
    held = Lease.take(tmp_path)
    (file,) = tmp_path.glob(".lease-*")
    os.utime(file, (time.time() - STALE - 1,) * 2)
    limit = time.monotonic() + 10
    while time.time() - file.stat().st_mtime > 5:
        assert time.monotonic() < limit, "no heartbeat came"
        time.sleep(0.01)
    with pytest.raises(SettingsError, match="K-01"):
        Lease.take(tmp_path)
    held.free()


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_frees_no_folder(tmp_path: Path, days: int, monkeypatch) -> None:
    """I9: ages are told by the folder's own file system, and so are heartbeats."""
    monkeypatch.setattr(leases, "BEAT", 0.05)
    held, now, now_ns = Lease.take(tmp_path), time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now() + days * 86_400)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + days * 86_400 * 10**9)
    time.sleep(0.3)
    with pytest.raises(SettingsError, match=r"K-01.*heartbeat \d s ago"):
        Lease.take(tmp_path)
    held.check()
    held.free()
    Lease.take(tmp_path).free()


def beating_often() -> None:
    from tutelage.engine import lease

    lease.BEAT = 0.5


@pytest.mark.parametrize("how", ["removed", "moved", "emptied"])
def test_a_run_whose_folder_is_lost_stops_and_says_so(tmp_path: Path, how: str) -> None:
    """B8: it does not make the folder again, where half of a run would lie."""
    out = tmp_path / "run"
    process = begin(out, beating_often, steps=100_000, save_steps=1)
    wait_for(out, 5, process)
    if how == "moved":
        out.rename(tmp_path / "elsewhere")
    while out.exists() and any(out.iterdir()):  # it may be writing while this removes
        shutil.rmtree(out, ignore_errors=True)
    if how == "emptied":
        out.mkdir()
    assert ended(process, within=60) == [6]
    assert "K-22" in said(out) and "is gone" in said(out)
    assert not (out / "checkpoints").exists()


def test_a_lease_that_was_given_back_fences_too(tmp_path: Path) -> None:
    held = Lease.take(tmp_path)
    held.check()
    held.free()
    with pytest.raises(MachineError, match="K-22"):
        held.check()

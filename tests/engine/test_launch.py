"""Where a process computes and with whom it meets: what it is told, and what it finds (H8, I3, J3, J4)."""

import ctypes
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from small_runs import FLAGS, tiny
from tutelage.cli import main
from tutelage.data.index import Statistics
from tutelage.engine.launch import StopRequest, has_bf16, launched
from tutelage.engine.pretrain import _numerics
from tutelage.errors import DistributedError, SettingsError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ALONE, "LOCAL_RANK", "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)


def tell(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_port_that_another_program_listens_at_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        tell(monkeypatch, **ALONE | {"WORLD_SIZE": "2", "MASTER_PORT": str(port)})
        pattern = rf"^P-03: port {port}, .* is used by another program\."
        with pytest.raises(DistributedError, match=pattern) as refused, launched("cpu"):
            pass
    assert refused.value.exit_code == 7 and not dist.is_initialized()


@pytest.mark.parametrize(
    "wrong",
    [
        {"RANK": "first"},
        {"RANK": "-1"},
        {"RANK": "1"},
        {"RANK": "3", "WORLD_SIZE": "2"},
        {"RANK": "١", "WORLD_SIZE": "2"},
        {"WORLD_SIZE": ""},
        {"WORLD_SIZE": "0"},
        {"MASTER_PORT": "http"},
        {"LOCAL_RANK": "x"},
    ],
    ids=str,
)
def test_an_environment_of_several_processes_that_makes_no_sense_is_refused(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(monkeypatch, **ALONE | wrong)
    pattern = r"^P-02: .*, and makes no sense: RANK=.*: unset RANK WORLD_SIZE "
    with pytest.raises(DistributedError, match=pattern) as refused, launched("cpu"):
        pass
    assert refused.value.exit_code == 7 and not dist.is_initialized()


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The GPUs that were chosen, on a machine that seems to have some."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    return chosen


def test_a_local_rank_alone_is_a_leftover_and_chooses_no_gpu(gpus: list[torch.device], monkeypatch) -> None:
    tell(monkeypatch, LOCAL_RANK="3")
    with launched(None) as device:
        assert device == torch.device("cuda", 0)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)  # as in the second run of one process
    tell(monkeypatch, **ALONE)
    with launched(None) as device:
        assert device == torch.device("cuda", 3)
    assert gpus == [torch.device("cuda", 0), torch.device("cuda", 3)]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which signal comes when the parent dies")
def test_a_local_rank_alone_is_a_leftover_and_ties_no_run_to_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    tell(monkeypatch, LOCAL_RANK="3")
    with StopRequest().listening():
        assert signal_at_the_parents_death() == 0
    tell(monkeypatch, **ALONE)
    with StopRequest().listening():
        asked_for = signal_at_the_parents_death()
    ctypes.CDLL(None).prctl(1, 0)
    assert asked_for == signal.SIGTERM


def signal_at_the_parents_death() -> int:
    number = ctypes.c_int()
    assert ctypes.CDLL(None).prctl(2, ctypes.byref(number)) == 0
    return number.value


def test_a_gpu_that_fails_when_it_is_chosen_is_refused_with_the_drivers_reason(
    gpus: list[torch.device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_old(device: torch.device) -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nmore lines")

    monkeypatch.setattr(torch.cuda, "set_device", too_old)
    assert main(["pretrain", "mae-quickstart", "--data=digits", f"--out={tmp_path / 'run'}", "--device=cuda"]) == 6
    assert capsys.readouterr().err == (
        "R-21: cuda:0 cannot be used: The NVIDIA driver on your system is too old (found version 11040). "
        "Use --device cpu, or mend the driver.\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_run_on_a_cpu_says_so_and_how_long_it_will_take(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = ["pretrain", "mae-quickstart", "--data=digits", f"--out={tmp_path / 'run'}", "--steps=2", *FLAGS]
    assert main([*words, "--monitors=0"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"^device  cpu · (float32|bfloat16) · 1 process$", said, re.MULTILINE), said
    assert re.search(r"^step 1/2 · .* · \d+ (s|min \d+ s|h \d+ min) left$", said, re.MULTILINE), said


def test_the_peak_of_memory_is_the_runs_own_and_not_that_of_the_program_that_started_it() -> None:
    """On Linux `ru_maxrss` of a program is at least what the one that started it held: all rows of `reproduce` had that."""
    size = 1_500_000_000
    held = bytearray(b"x") * size
    code = """if True:
        import torch
        from tutelage.engine.launch import peak_memory
        before = peak_memory(torch.device("cpu"))
        held = bytearray(b"x") * 200_000_000
        print(before, peak_memory(torch.device("cpu")))
    """
    said = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    before, after = map(int, said.split())
    assert before < size == len(held)
    assert 190_000_000 < after - before < 300_000_000


@pytest.mark.parametrize(("capability", "native"), [((7, 5), False), ((8, 0), True), ((10, 0), True)])
def test_a_gpu_computes_in_bfloat16_natively_from_the_capability_8_on(
    capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`torch.cuda.is_bf16_supported` says so of older ones too, which emulate it."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert has_bf16(GPU) is native


def test_bfloat16_that_is_not_native_is_refused_where_it_was_asked_for_and_not_taken_by_itself(monkeypatch) -> None:
    grey = Statistics((0.5,), (0.5,))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.raises(SettingsError, match=r"^C-26: precision bf16: this cuda has no native bfloat16\."):
        _numerics(tiny("mae", precision="bf16"), GPU, grey)
    for native in (False, True):
        for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
            monkeypatch.setattr(torch.cpu, check, lambda native=native: native, raising=False)
        for precision in ("auto", "float32"):
            assert _numerics(tiny("mae", precision=precision), CPU, grey).name == "float32"
    assert _numerics(tiny("mae", precision="bf16"), CPU, grey).name == "bfloat16"


@pytest.mark.parametrize(("capability", "chosen"), [((7, 5), "float32"), ((8, 0), "bfloat16")])
def test_a_gpu_computes_in_bfloat16_by_itself_where_that_is_native(
    capability: tuple[int, int], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch, "tensor", lambda values, dtype, device: torch.empty(0, dtype=dtype))
    numerics = _numerics(tiny("mae", precision="auto"), GPU, Statistics((0.5,), (0.5,)))
    assert (numerics.name, numerics.dtype) == (chosen, torch.float32)

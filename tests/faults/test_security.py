"""What the code may not do, what it does not write down, and machines that lack something (security list, section J)."""

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pytest
import torch
from tests.evaluation.small import official_mae, small_vit

import tutelage
from data.pictures_on_disk import fill
from small_runs import FLAGS, tiny
from tutelage import api, floors, foreign
from tutelage.cli import main
from tutelage.config import redacted
from tutelage.data.index import open_data
from tutelage.errors import MachineError, translated
from tutelage.options import parse

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

FORBIDDEN = {
    r"\bpickle\b": ["foreign.py"],  # the name of the exception
    r"\btorch\.load\b": ["foreign.py"],
    r"\bc?loudpickle\b|\bjoblib\b|\bdill\b|\bshelve\b|\bmarshal\b": [],
    r"allow_pickle\s*=\s*True|weights_only\s*=\s*False": [],
    r"(?<![\w.])(eval|exec|compile|__import__)\(": [],
    r"shell\s*=\s*True|os\.system|os\.popen|getoutput": [],
    r"yaml\.|\bhydra\b|_target_": [],
    r"extractall|\.extract\(|unpack_archive": [],
    r"import_module\((?!f\"tutelage\.)": [],
    r"os\.environ\b(?!\.get\(|\[|\.setdefault\()": ["foreign.py", "launch.py", "reproduce.py"],  # `in os.environ`; for its runs
    r"csv\.(writer|DictWriter)|to_csv": ["tables.py"],  # which makes no cell that a spreadsheet would run
    r"torch\.compile": [],  # not used, so it cannot fail
    r"autoescape\s*=\s*False|\|\s*safe\b|Markup\(": [],
    r"verify\s*=\s*False|_create_unverified": [],
    r"\bDataLoader\b|\bmultiprocessing\b|\bshared_memory\b": [],  # threads read: nothing is pickled, and /dev/shm not used
    r"distributed\.checkpoint|(gather|scatter|broadcast|send|recv)_object(_list)?\b": [],  # these pickle
    r"http\.server|socketserver": [],
    r"MAX_IMAGE_PIXELS\s*=|LOAD_TRUNCATED": [],
    r"\btime\.time(_ns)?\(|from time import": ["remembered.py"],  # which asks how long ago a file was written
}  # fmt: skip


def code(path: Path) -> str:
    """The file without comments and docstrings' prose: what is between three quotes, and behind #."""
    text = re.sub(r'""".*?"""', '""', path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.sub(r"(?m)(^|\s)#.*$", "", text)


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_the_code_has_no_dangerous_call_but_where_it_is_confined(pattern: str) -> None:
    found = {path.name for path in SOURCES if re.search(pattern, code(path))}
    found |= {
        path.name for path in (ROOT / "src").rglob("*.html") if re.search(pattern, path.read_text(encoding="utf-8"))
    }
    assert found <= set(FORBIDDEN[pattern]), f"{pattern} in {found}"
    assert len(SOURCES) > 50


def test_the_search_for_dangerous_calls_finds_them() -> None:
    guilty = (
        "import pickle", "torch.load(f)", "import joblib", "np.load(f, allow_pickle=True)", "x = eval(s)", "run(c, shell=True)",
        "yaml.load(f)", "tar.extractall(p)", 'import_module(f"{name}")', "dict(os.environ)", "csv.writer(f)",
        "torch.compile(m)", "Environment(autoescape=False)", "get(url, verify=False)", "import multiprocessing",
        "dist.broadcast_object_list(l)", "import http.server", "Image.MAX_IMAGE_PIXELS = None", "if time.time() > end:",
    )  # fmt: skip
    for line, pattern in zip(guilty, FORBIDDEN, strict=True):
        assert re.search(pattern, line), (line, pattern)


# --- the reader of foreign weights ------------------------------------------------------------------------------------

TRIALS = {
    "open a file": ("open('/proc/self/status')", "Too many open files"),
    "write a file": ("open('canary', 'w')", "Too many open files"),
    "open a connection": ("socket.socket()", "Too many open files"),
    "start a program": ("os.execv('/bin/sh', ['sh', '-c', 'echo harm'])", ""),
    "take memory": ("bytearray(8 * 10**9)", "MemoryError"),
    "write without end": ("[os.write(1, bytes(10**6)) for _ in range(10)]", "File too large"),
    "take time": ("[None for _ in iter(int, 1)]", ""),
}
PROGRAM = """
import json, os, socket, sys
from tutelage.foreign import _confine
for deed in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        seconds = 1 if "iter" in deed else 60
        with open("out", "wb") as out, open("err", "wb") as err:
            os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        _confine(1000, seconds)
        try:
            eval(deed)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os.write(2, b"it could")
        os._exit(0)
    code = os.waitpid(child, 0)[1]
    sys.stdout.write(json.dumps([deed, code, open("err").read(), "harm" in open("out", errors="replace").read()]) + "\\n")
"""


def test_the_process_that_reads_foreign_weights_can_do_nothing_else(tmp_path: Path) -> None:
    """What a way around `weights_only` would meet, each in a process of its own."""
    deeds = json.dumps([deed for deed, _ in TRIALS.values()])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, deeds], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(outcomes) == len(TRIALS)
    for (deed, code, said, harm), (name, (_, told)) in zip(outcomes, TRIALS.items(), strict=True):
        assert code != 0 and told in said and "it could" not in said and not harm, (name, deed, code, said)
    assert not (tmp_path / "canary").exists()


def test_the_reader_sees_nothing_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    run = subprocess.run

    def noted(*args: object, **options: object) -> object:
        seen.append(options["env"])  # type: ignore[arg-type]
        return run(*args, **options)  # type: ignore[call-overload]

    monkeypatch.setenv("HF_TOKEN", "s3cret")
    monkeypatch.setattr(foreign.subprocess, "run", noted)
    tensors = foreign.read_pickled(official_mae(tmp_path / "mae.pth", small_vit(seed=1)))
    assert torch.equal(tensors["model.cls_token"], small_vit(seed=1).cls_token)
    assert seen and not any("s3cret" in value for value in seen[0].values())


def test_the_reader_takes_no_module_from_where_the_weights_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official_mae(tmp_path / "mae.pth", small_vit(seed=1))
    for name in ("torch", "json", "tutelage", "resource"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w')")
    monkeypatch.chdir(tmp_path)
    assert foreign.read_pickled(Path("mae.pth")) and not (tmp_path / "canary").exists()


# --- what is written down ---------------------------------------------------------------------------------------------


def test_words_that_are_called_secret_are_left_out() -> None:
    words = [
        "tutelage",
        "--hf-token=abc",
        "--api-key",
        "abc",
        "--data",
        "keyboards",
        "WANDB_API_KEY=abc",
        "--secret",
        "--x",
    ]
    kept = [
        "tutelage",
        "--hf-token=***",
        "--api-key",
        "***",
        "--data",
        "keyboards",
        "WANDB_API_KEY=***",
        "--secret",
        "--x",
    ]
    assert redacted(words) == kept
    plain = ["pretrain", "--data=tokens/monkeys", "--method.norm-pix", "--keep-steps=3", "--backbone.positions=learned"]
    assert redacted(plain) == plain
    assert redacted(["--password=a", "--keys=a", "--auth-key=a", "--MY_KEY=a"])[::3] == [
        "--password=***",
        "--MY_KEY=***",
    ]


def test_a_run_writes_down_neither_the_environment_nor_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "s3cret-in-the-environment")
    monkeypatch.setenv("UNRELATED", "s3cret-unrelated")
    monkeypatch.setattr(
        sys, "argv", ["tutelage", "pretrain", "--api-key=s3cret-word", "--token", "s3cret-next", "told"]
    )
    api.run(tiny("mae", steps=1), tmp_path / "run", quiet=True)
    texts = [path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(b"told" in text for text in texts), "the command is kept"
    assert not any(b"s3cret" in text for text in texts)


# --- machines that lack something -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "old", "floor"),
    [("torch", "2.5.1+cu121", "2.6"), ("torch", "1.13.1", "2.6"), ("pillow", "12.2.0", "12.3")],
)
def test_a_library_below_its_floor_is_refused_with_the_reason(
    name: str, old: str, floor: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = metadata.version
    monkeypatch.setattr(floors, "version", lambda asked: old if asked == name else installed(asked))
    assert main(["recipes"]) == 6
    said = capsys.readouterr().err
    assert said.startswith(f"R-01: {name} {old} is older than {floor}. ") and said.endswith(
        f"Install {name} {floor} or newer.\n"
    )
    assert main(["--help"]) == 0 and main(["--version"]) == 0


def test_the_floors_are_those_of_the_package_and_are_met_here() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, ((major, minor), _) in floors.FLOORS.items():
        assert f"{name}>={major}.{minor}" in project["dependencies"]
    assert project["requires-python"] == ">=" + ".".join(map(str, floors.PYTHON))
    floors.check_floors()


def test_python_is_told_of_an_old_library_as_the_command_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """J8."""
    installed = metadata.version
    monkeypatch.setattr(floors, "version", lambda asked: "2.5.1+cu121" if asked == "torch" else installed(asked))
    for name in set(tutelage.__all__) - {"__version__"}:
        with pytest.raises(MachineError, match=r"^R-01: torch 2\.5\.1\+cu121 is older than 2\.6\."):
            getattr(tutelage, name)
    assert tutelage.__version__


@pytest.mark.parametrize("found", ["2.6.0a0+git1", "3.0", "2.10.0", "weird"])
def test_versions_of_other_builds_are_no_reason_to_refuse(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "version", lambda name: found if name == "torch" else "99.0")
    floors.check_floors()


def test_an_old_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors.sys, "version_info", (3, 9, 18))
    with pytest.raises(MachineError, match=r"R-01: Python 3\.9 is older than 3\.10"):
        floors.check_floors()


def test_asking_for_versions_takes_no_time() -> None:
    started = time.process_time()
    floors.check_floors()
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    ("micro", "fewer"), [(None, "--micro-batch 16"), (2, "--micro-batch 1"), (1, "--backbone.image-size")]
)
def test_a_full_memory_says_what_a_pass_held_and_what_to_try(
    micro: int | None, fewer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J2. The device's refusal is raised inside the step, where a GPU raises it."""

    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines")

    monkeypatch.setattr("torch.nn.functional.linear", full)
    settings = tiny("mae", steps=2, micro_batch=micro)
    with pytest.raises(MachineError, match="R-20") as raised:
        api.run(settings, tmp_path / "run", quiet=True)
    text = str(raised.value)
    assert f"held {micro or 32} pictures of 16 px, 16 patches each" in text and "Tried to allocate 2.00 GiB" in text
    assert fewer in text and raised.value.exit_code == 6


def test_full_memory_too_many_files_and_missing_libraries_have_codes() -> None:
    cpu = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to ..."
    )
    assert translated(cpu).code == "R-20" and translated(MemoryError()).code == "R-20"
    assert translated(OSError(24, os.strerror(24))).code == "R-23"
    assert translated(ImportError("no module named x")).code == "R-11"
    lost = RuntimeError(
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:552] Connection closed by peer [127.0.0.1]:1024"
    )
    assert translated(lost).code == "P-05" and translated(RuntimeError("Connection closed")).code == "U-01"
    assert {translated(e).exit_code for e in (cpu, OSError(24, ""), ImportError())} == {6}


BARE = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}


def test_a_run_needs_no_home_no_cache_no_network_and_few_open_files(
    tmp_path: Path, amount: Callable[[int, int, int], int]
) -> None:
    """J7, J9: 64 open files, 40 pictures, HOME nowhere, caches that cannot be written, and every connection refused."""
    if not amount(0, 1, 1):
        pytest.skip("in make faults: without a cache, the fonts of the charts are searched for anew")
    (tmp_path / "sitecustomize.py").write_text(
        "import socket\ndef no(*a, **k): raise OSError('a connection was asked for')\nsocket.socket.connect = no\n"
        "socket.getaddrinfo = no\n"
    )
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "TUTELAGE_CACHE"), "/proc/nowhere")
    fill(tmp_path / "set", 40)
    words = [
        "pretrain",
        "mae-quickstart",
        f"--data={tmp_path / 'set'}",
        f"--out={tmp_path / 'run'}",
        "--steps=2",
        "--workers=4",
        *FLAGS,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "tutelage", *words],
        env=BARE | nowhere | {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and (tmp_path / "run" / "report.html").exists()


@contextmanager
def no_more_open_files() -> Iterator[None]:
    lowest_free, before = os.dup(0), resource.getrlimit(resource.RLIMIT_NOFILE)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_many_open_files_are_told_by_the_command_with_the_limit_to_raise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """J7."""
    with no_more_open_files():
        code = main(["pretrain", "mae-quickstart", "--data=digits", f"--out={tmp_path / 'run'}", "--steps=2", *FLAGS])
    said = capsys.readouterr().err
    assert code == 6 and said.startswith("R-23: ") and said.endswith("Allow more: ulimit -n 4096.\n"), said
    assert said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_picture_that_cannot_be_opened_among_too_many_open_files_is_not_damaged(tmp_path: Path) -> None:
    """J7."""
    fill(tmp_path, 40)
    train = open_data(str(tmp_path)).train
    for ask in (lambda: train.read(0), lambda: open_data(str(tmp_path))):
        with no_more_open_files(), pytest.raises((OSError, MachineError)) as refused:
            ask()
        told = refused.value if isinstance(refused.value, MachineError) else translated(refused.value)
        assert told.code == "R-23", told
    assert train.source.failed == {}


def test_a_missing_optional_library_is_told_with_its_extra_when_the_set_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """J1. A TIFF of 16 bits a colour is one that Pillow would cut."""
    tifffile = pytest.importorskip("tifffile")
    import numpy as np

    for i in range(3):
        picture = np.random.default_rng(i).integers(0, 2**16, (20, 20, 3), dtype=np.uint16)
        tifffile.imwrite(tmp_path / f"{i}.tif", picture, photometric="rgb")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    assert main(["pretrain", "mae-quickstart", f"--data={tmp_path}", f"--out={tmp_path / 'run'}"]) == 3
    assert "pip install 'tutelage[tiff]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """J4."""
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert main(["pretrain", "mae-quickstart", "--data=digits", f"--out={tmp_path / 'run'}", "--device=cuda"]) == 6
    assert "R-21" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_every_option_of_every_command_can_be_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for model in (api.EvaluateOptions, api.ExportOptions, api.ReportOptions):
        with pytest.raises(SystemExit):
            parse(model, ["--help"])
    assert "--low-shot" in capsys.readouterr().out

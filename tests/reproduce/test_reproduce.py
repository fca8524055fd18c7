"""`tutelage reproduce`, through the command line: what is there is not run again, and a stop loses nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tutelage import ablations
from tutelage.cli import main
from tutelage.durable import append_lines
from tutelage.engine.settings import read_settings
from tutelage.report.collect import read_lines
from tutelage.reproduce import ReproduceOptions, _jobs, _scores

TABLE = "pseudomae/table-7"


def words(out: Path, *more: str) -> list[str]:
    small = ["--seeds=1", "--pictures=128", "--train-pictures=200", "--jobs=2"]
    return ["reproduce", TABLE, "--data=digits", f"--out={out}", *small, *more]


@pytest.mark.slow
def test_a_table_is_run_once_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(tmp_path)) == 0
    said = capsys.readouterr()
    assert "2 runs, 2 to do" in said.err
    kept = tmp_path / "mini" / TABLE / "table.md"
    assert kept.read_text() in said.out
    rows = json.loads(kept.with_suffix(".json").read_text())["rows"]
    assert [row["row"] for row in rows] == ["default", "ten times as fast"]
    assert [row["paper"] for row in rows] == [74.8, 73.6]
    assert all(0 < row["scores"]["linear-cached/1"]["mean"] < 100 for row in rows)
    assert set(rows[1]["directions"].values()) == {"one seed"} and rows[1]["step_time"] > 0 and rows[1]["memory"] > 0.5

    table = ablations.table(TABLE)
    options = ReproduceOptions(table=TABLE, data="digits", seeds=1, pictures=128, out=tmp_path)
    jobs = _jobs(table, options)
    own = read_lines(jobs[0].out / "evaluations.jsonl")[0]
    wanted = {name: own[name] for name in ("teacher", "fingerprint", "pictures")}
    assert [len(_scores(job, table, wanted)) for job in jobs] == [3, 3]
    for other in ({"pictures": {"train": 300}}, {"fingerprint": "another"}, {"teacher": "labelling_teacher"}):
        assert [_scores(job, table, wanted | other) for job in jobs] == [{}, {}], "judged by other pictures, or another"

    # What was asked of a run meanwhile, a start of what is finished, and a machine that went down while it wrote.
    others = [
        {"teacher": "labelling_teacher"},
        {"fingerprint": "another"},
        {"pictures": {"train": 7}},
        {"settings": {}},
    ]
    append_lines(jobs[0].out / "evaluations.jsonl", [json.dumps(own | other | {"accuracy": 0.0}) for other in others])
    append_lines(jobs[0].out / "events.jsonl", ['{"event": "finished", "peak_memory": 1}'])
    with (jobs[1].out / "evaluations.jsonl").open("a") as half:
        half.write('{"protocol": "knn/1", "accu')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("evaluations.jsonl")}
    assert len(before) == 2
    assert main(words(tmp_path)) == 0
    again = capsys.readouterr()
    assert "2 runs, 0 to do" in again.err and again.out == said.out
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stop_saves_the_runs_and_ends_with_75(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM also where Ctrl-C is ignored, as a shell has it for what runs in the background."""
    command = [sys.executable, "-m", "tutelage", *words(tmp_path, "--pictures=1000000", "--jobs=1")]
    ctrl_c = signal.SIG_IGN if number == signal.SIGTERM else signal.SIG_DFL
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=partial(signal.signal, signal.SIGINT, ctrl_c),
    )
    deadline = time.monotonic() + 120
    while not (metrics := list(tmp_path.rglob("metrics.jsonl"))) or not metrics[0].read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.2)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.strip().endswith(
        "S-75: pseudomae/table-7 was asked to stop; its runs are saved. The same command goes on."
    )
    assert list(metrics[0].parent.glob("checkpoints/step-*/MANIFEST.json"))
    assert "stopped" in (metrics[0].parent / "events.jsonl").read_text()


def test_the_full_scale_writes_an_array_that_a_shell_can_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that pretrain takes, a script without an error, and a table in which nothing is measured yet."""
    data = str(tmp_path / "my pictures")
    assert (
        main(["reproduce", "pseudomae/table-8", f"--data={data}", f"--out={tmp_path}", "--scale=full", "--seeds=2"])
        == 0
    )
    script = tmp_path / "full/pseudomae/table-8/array.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "#SBATCH --array=0-9\n" in text and f"--data '{data}'" in text
    files = sorted((tmp_path / "full/runs").rglob("*.json"))
    assert len(files) == 10
    for file in files:
        settings = read_settings(file)
        assert (settings.epochs, settings.batch_size, settings.data) == (100, 768, data)
        assert str(file.with_suffix("").resolve()) in text
    assert "| default | 74.82 |  |  |  |  |  |\n" in capsys.readouterr().out


def test_the_array_finetunes_what_it_pretrained_as_the_paper_does_and_judges_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With commands that only write down what they are asked."""
    words = ["reproduce", "pseudomae/table-7", "--data=a set", f"--out={tmp_path}", "--scale=full", "--seeds=2"]
    assert main(words) == 0
    commands, asked = tmp_path / "commands", tmp_path / "asked"
    commands.mkdir()
    for name, last in {
        "torchrun": 'mkdir -p "${@: -1}"; echo "$STATE" >> "${@: -1}/events.jsonl"',
        "tutelage": ":",
        "scontrol": ":",
    }.items():
        (commands / name).write_text(f'#!/usr/bin/env bash\necho "{name} $*" >> {asked}\n{last}\n')
        (commands / name).chmod(0o755)

    def run(state: str) -> tuple[int, list[str]]:
        asked.write_text("")
        code = subprocess.run(
            ["bash", str(tmp_path / "full/pseudomae/table-7/array.sh")], check=False,
            env={"PATH": f"{commands}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_ID": "5", "STATE": state},
        ).returncode  # fmt: skip
        return code, [line.replace(str(tmp_path.resolve()), "") for line in asked.read_text().splitlines()]

    code, lines = run('{"event": "finished"}')
    (folder,) = {path.parent for path in tmp_path.glob("full/runs/*/seed-1-finetuned")}
    out = f"/full/runs/{folder.name}/seed-1"
    start = "torchrun --standalone --nproc-per-node 8 -m tutelage"
    assert (code, lines) == (0, [
        f"{start} pretrain --settings {out}.json --out {out}",
        f"{start} finetune {out} --recipe finetune-vits16 --data a set --seed 1 --out {out}-finetuned",
        f"tutelage evaluate classifier {out}-finetuned --data a set",
    ])  # fmt: skip
    code, lines = run('{"event": "stopped"}')
    assert (code, lines[1:]) == (0, ["scontrol requeue 5"])
    assert run('{"event": "failed"}')[0] == 1

    seed = folder / "seed-1"
    (seed / "metrics.jsonl").write_text('{"step": 1, "images_per_second": 100.0}\n')
    (seed / "events.jsonl").write_text('{"event": "finished", "peak_memory": 1000}\n')
    line = {"protocol": "classifier/1", "accuracy": 0.75, "teacher": None}
    (folder / "seed-1-finetuned" / "evaluations.jsonl").write_text(json.dumps(line) + "\n")
    capsys.readouterr()
    assert main(words) == 0
    assert "| 75.0 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "words", "said"),
    [
        (
            TABLE,
            ["--scale=full", "--jobs=2", "--pictures=9"],
            "--pictures, --jobs would change nothing in .* full scale",
        ),
        (TABLE, ["--scale=full", "--train-pictures=9"], "--train-pictures would change nothing"),
        ("semi-mae/table-3", ["--train-pictures=9"], "--train-pictures would change nothing in .* mini scale"),
    ],
)
def test_an_option_that_changes_nothing_is_refused(
    table: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", table, "--data=digits", f"--out={tmp_path}", *words]) == 2
    assert re.search(f"^C-40: {said}", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_pictures_without_labels_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    for i in range(20):
        Image.new("RGB", (16, 16), (i, i, i)).save(tmp_path / f"{i}.png")
    assert main(["reproduce", TABLE, f"--data={tmp_path}", f"--out={tmp_path / 'out'}"]) == 3
    assert capsys.readouterr().err.startswith("D-10: ")
    assert not (tmp_path / "out").exists()


def test_it_lists_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce"]) == 0
    assert "pseudomae/isolate  what each part is worth\n" in capsys.readouterr().out

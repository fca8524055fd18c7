"""Files and names that mean harm do none: nothing of theirs runs, none takes the memory, all are told in a sentence.

The canary is a file that only hostile input would make; that each pickle does so when it is trusted is tested first.
"""

import json
import pickle
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from payloads import NAMES, calls, damaged_zips, header, headers, pickles
from PIL import Image
from tests.evaluation.small import GREY, NAME, official_mae, same, small_vit, write_run
from tests.report.test_page import Page
from tests.report.test_page import write_run as write_reported

from small_runs import FLAGS
from tutelage.cli import main
from tutelage.data.decode import Unreadable, decode
from tutelage.data.index import open_data
from tutelage.errors import CheckpointError, TutelageError
from tutelage.export import init_from, load_encoder, write_timm
from tutelage.report import write_report
from tutelage.report.collect import Record, collect
from tutelage.report.page import render

Amount = Callable[[int, int, int], int]
Figure = Callable[[str, str], None]
STRANGE: tuple[Any, ...] = (
    None, True, "", "x", "7", -1, 0, 0.5, 1e308, 2**62, 10**30, float("nan"), [], {}, [None], ["x", "y"], [-1, -1],
    [0, 0], [2**40, 2**40], {"_target_": "os.system"}, "local-dir:/", "hf-hub:x/y", "\x1b[2J\n", "a" * 5000,
)  # fmt: skip


VIT = small_vit()
"""What refused weights never come to."""


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """A path that hostile input would touch; it must not be there in the end."""
    folder = tmp_path / "canary"
    folder.mkdir()
    yield folder / "canary"
    assert not (folder / "canary").exists() and not (folder / "canary").is_symlink()


def refuse(code: str, path: Path, read: Callable[[str], Any] | None = None) -> str:
    """Reading must be refused with `code`, in one line that can be printed."""
    with pytest.raises(TutelageError, match=f"^({code})") as refused:
        (read or (lambda where: init_from(VIT, where)))(str(path))
    text = str(refused.value)
    assert all(c.isprintable() for c in text) and len(text) < 3000
    return text


# --- weights ----------------------------------------------------------------------------------------------------------


def test_the_canary_sings_for_whoever_trusts_the_pickles(tmp_path: Path) -> None:
    for way, call in calls(tmp_path / "canary").items():
        pickle.loads(pickle.dumps(call))
        singing = tmp_path / "canary"
        assert singing.exists() or singing.is_symlink(), way
        singing.rmdir() if singing.is_dir() else singing.unlink()


def test_no_pickle_runs_whatever_it_is_called(canary: Path, tmp_path: Path, amount: Amount, figure: Figure) -> None:
    every = list(pickles(canary))
    chosen = random.Random(0).sample(every, amount(2, 10, len(every)))
    folder = tmp_path / "encoder"
    write_timm(small_vit(), folder, GREY, architecture=NAME)
    for number, (name, suffix, content) in enumerate(chosen):
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(content)
        if suffix == ".npy":
            with pytest.raises(Unreadable):
                decode(path)
        else:
            refuse("K-13|K-10", path)
        (folder / "model.safetensors").write_bytes(content)
        refuse("K-10", folder)
        assert not canary.exists() and not canary.is_symlink(), name
    figure("hostile pickles", f"{len(chosen)}, each as it is and as safetensors: 0 canaries touched")


def test_archives_that_lie_are_refused_or_read_as_what_they_hold(canary: Path, tmp_path: Path, amount: Amount) -> None:
    source = small_vit(seed=1)
    good = official_mae(tmp_path / "good.pth", source).read_bytes()
    for name, content in list(damaged_zips(good))[-amount(1, 3, 6) :]:
        (tmp_path / "lying.pth").write_bytes(content)
        vit = small_vit(seed=2)
        try:
            init_from(vit, str(tmp_path / "lying.pth"))
        except CheckpointError as error:
            assert error.code in ("K-10", "K-13"), name
            assert same(vit, small_vit(seed=2)), name
        else:
            assert same(vit, source), name
    assert not (tmp_path.parent / "canary").exists() and not Path("/tmp/canary").exists()


def test_headers_that_lie_are_refused_before_memory_is_taken(tmp_path: Path, amount: Amount, figure: Figure) -> None:
    folder = tmp_path / "encoder"
    write_timm(small_vit(), folder, GREY, architecture=NAME)
    every = list(headers())
    chosen = random.Random(0).sample(every, amount(15, len(every), len(every)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in chosen:
        for path in (tmp_path / "foreign.safetensors", folder / "model.safetensors"):
            path.write_bytes(content)
            refuse("K-10", path if path.parent == tmp_path else folder), name
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    assert grown < 300, f"{grown:.0f} MB more"
    figure("hostile safetensors headers", f"{len(chosen)} x 2 refused, {grown:.0f} MB more memory")


def test_a_header_that_tells_the_truth_is_read(tmp_path: Path) -> None:
    """The corpus above is refused for its lies, and not for how it is written."""
    vit, entries, data = small_vit(seed=3), {}, b""
    for name, tensor in vit.state_dict().items():
        content = tensor.numpy().tobytes()
        entries[name] = {
            "dtype": "F32",
            "shape": [*tensor.shape],
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    (tmp_path / "good.safetensors").write_bytes(header(entries, data))
    other = small_vit(seed=4)
    init_from(other, str(tmp_path / "good.safetensors"))
    assert same(vit, other)


# --- JSON -------------------------------------------------------------------------------------------------------------


def changed(values: Any, amount: int) -> Iterator[str]:
    """The JSON text with a strange value in each place; `amount` of them."""

    def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield path
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            yield from places(value[key], (*path, key))

    every = [(path, strange) for path in places(values) for strange in STRANGE]
    for path, strange in random.Random(1).sample(every, min(amount, len(every))):
        copy = json.loads(json.dumps(values))
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        if path:
            inner[path[-1]] = strange
        yield json.dumps(copy if path else strange)
    yield from ("", "[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, '{"a": 1, "a": 2}', '{"a": NaN}', "\x00")
    yield '{"a": "' + "x" * 11_000_000 + '"}'


@pytest.mark.parametrize("size", ["7", "", [], [7], {}, None, [7, "a"]])
def test_a_model_whose_size_is_none_is_damaged(size: Any, tmp_path: Path) -> None:
    write_timm(small_vit(), tmp_path / "encoder", GREY, architecture=NAME)
    file = tmp_path / "encoder" / "config.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole | {"model_args": whole["model_args"] | {"img_size": size}}))
    with pytest.raises(CheckpointError, match="^K-10: "):
        load_encoder(str(tmp_path / "encoder"))


@pytest.mark.parametrize("name", ["config.json", "settings.json", "data.json", "MANIFEST.json"])
def test_strange_json_beside_weights_is_refused_or_harmless(
    name: str, canary: Path, tmp_path: Path, amount: Amount, figure: Figure
) -> None:
    checkpoint = write_run(tmp_path / "run", small_vit(seed=1), small_vit(seed=2))
    write_timm(small_vit(seed=1), tmp_path / "encoder", GREY, architecture=NAME)
    file = {"config.json": tmp_path / "encoder" / name, "MANIFEST.json": checkpoint / name}.get(
        name, tmp_path / "run" / name
    )
    where, whole = str(tmp_path / ("encoder" if name == "config.json" else "run")), json.loads(file.read_text())
    assert same(load_encoder(where).vit, small_vit(seed=1))
    read = refused = 0
    for text in changed(whole, amount(10, 50, 1000)):
        file.write_text(text)
        try:
            load_encoder(where)
            read += 1
        except TutelageError as error:
            refused += 1
            assert error.exit_code in (2, 4) and len(str(error)) < 3000, (text[:300], error)
    assert refused > 7
    figure(f"strange {name}", f"{refused} refused, {read} without consequence")


def test_a_timm_folder_cannot_name_another_file_to_read(canary: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickle.dumps(calls(canary)["open"]))
    write_timm(small_vit(), tmp_path / "encoder", GREY, architecture=NAME)
    file = tmp_path / "encoder" / "config.json"
    whole = json.loads(file.read_text())
    for extra in (
        {"checkpoint_path": str(evil)},
        {"pretrained": True},
        {"pretrained_cfg": {"file": str(evil)}},
        {"cache_dir": "/"},
    ):
        file.write_text(json.dumps(whole | {"model_args": whole["model_args"] | extra}))
        assert "is no argument of a Vision Transformer" in refuse("K-10", tmp_path / "encoder", load_encoder)


@pytest.mark.parametrize("name", ["settings", "environment", "data", "metrics", "monitors", "events", "evaluations"])
def test_strange_json_in_a_run_still_gives_a_page(name: str, tmp_path: Path, amount: Amount) -> None:
    run = write_reported(tmp_path / "run", steps=20)
    (file,) = run.glob(f"{name}.json*")
    whole, *more = file.read_text().splitlines()
    for text in changed(json.loads(whole), amount(4, 25, 400)):
        file.write_text("\n".join([text, *more]))
        assert write_report(run).stat().st_size > 1000


def test_a_page_of_a_million_lines_is_small_and_soon_there(tmp_path: Path, amount: Amount, figure: Figure) -> None:
    """K9. In a process of its own, whose memory is measured."""
    lines = amount(50_000, 200_000, 1_000_000)
    run = write_reported(tmp_path / "run", steps=10)
    with (run / "metrics.jsonl").open("w") as file:
        for step in range(10, 10 * lines + 1, 10):
            row = {
                "step": step,
                "epoch": step / 5e4,
                "loss": 1 / step,
                "reconstruction": 1 / step,
                "lr": 1e-3,
                "grad_norm": 0.5,
            }
            file.write(json.dumps(row | {"images_per_second": 120.5, "data_wait": 0.01, "skipped": 0}) + "\n")
    program = "import sys, time\nfrom pathlib import Path\nfrom tutelage.report import write_report\n"
    program += "start = time.process_time()\nsize = write_report(Path(sys.argv[1])).stat().st_size\n"
    program += "memory = Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]\n"
    program += "print(size, time.process_time() - start, memory)"
    done = subprocess.run([sys.executable, "-c", program, str(run)], capture_output=True, text=True, check=True)
    size, seconds, memory = (float(word) for word in done.stdout.split())
    assert size < 20e6 and seconds < 10 + 2e-5 * lines and memory < 500_000, done.stdout
    figure(
        "page of a long run", f"{lines:,} lines: {size / 1e6:.1f} MB, {seconds:.0f} s, {memory / 1e3:.0f} MB of memory"
    )


# --- names ------------------------------------------------------------------------------------------------------------


def fields(record: Record, word: str) -> Iterator[tuple[str, Record]]:
    """The record with the word in one place that takes text from outside, by the place's name."""
    rows = [{"name": word, "token": word, "accuracy": 0.5}]
    yield "setting", replace(record, settings={**record.settings, "data": word})
    yield "name of a setting", replace(record, settings={**record.settings, word: 1, "method": {word: word}})
    yield "command", replace(record, environment={"command": ["tutelage", word]})
    yield "unreadable file", replace(record, data={**record.data, "unreadable": [[word, word]], "found": [word]})
    yield "evaluation", replace(record, evaluations=[{"protocol": word, "data": word, "teacher": word, "rows": rows}])
    yield "name of the run", replace(record, name=word, pictures={word: next(iter(record.pictures.values()))})


def test_no_name_becomes_an_element_or_an_attribute(tmp_path: Path, amount: Amount, figure: Figure) -> None:
    ours = collect(write_reported(tmp_path / "run", steps=10))
    payloads = NAMES[:: amount(9, 2, 1)]
    for payload in payloads:
        written = collect(write_reported(tmp_path / str(NAMES.index(payload)), payload, steps=10))
        word = written.settings["data"]  # as it is read back from JSON
        for place, record in fields(ours, word):
            page, harmless = Page(render(record)), Page(render(dict(fields(ours, "harmless"))[place]))
            assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags], (place, payload)
            assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in harmless.tags], (place, payload)
            assert page.style == harmless.style and any(word in text for text in page.text), (place, payload)
            policy = [
                a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"
            ]
            assert len(policy) == 1 and (policy[0] or "").startswith("default-src 'none'")
            assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    figure("names in the report", f"{len(payloads)} payloads x 6 places: no element or attribute that is not ours")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty small pictures."""
    (tmp_path / "photos").mkdir()
    for i in range(40):
        Image.effect_noise((24, 20), 10 + i).convert("RGB").save(tmp_path / "photos" / f"{i:02}.png")
    return tmp_path / "photos"


FORGED = "\x1b[2J\x9b31m\r\nN-01: forged\u202e\u2028.png"


def test_names_of_files_reach_neither_the_terminal_nor_the_logs_raw(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / FORGED).write_bytes(b"no picture")
    (photos / "half \udcff.png").write_bytes(b"no picture")
    out = tmp_path / "\x1b[31mrun\r\n"
    assert main(["pretrain", "mae-quickstart", f"--data={photos}", f"--out={out}", "--steps=1", *FLAGS]) == 0
    said = capsys.readouterr().err
    assert r"\x1b[2J" in said and "N-01: forged" in said, "the name was told"
    assert all(c.isprintable() or c == "\n" for c in said)
    assert not any(line.startswith("N-01") for line in said.splitlines())
    for name in ("events.jsonl", "data.json", "settings.json", "environment.json", "metrics.jsonl"):
        text = (out / name).read_text(encoding="utf-8")
        assert all(c.isprintable() or c == "\n" for c in text), name
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    names = {str(event.get("name")) for event in events}
    assert FORGED in names and any(name.startswith("half ") for name in names), "and it is written down"


def test_names_in_refusals_are_one_line_that_can_be_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["evaluate", "knn", str(tmp_path / FORGED), "--data=digits"],
        ["export", str(tmp_path / FORGED), "--out", str(tmp_path / "out")],
        ["report", str(tmp_path / FORGED)],
        ["pretrain", "mae-quickstart", f"--data={tmp_path / FORGED}"],
        ["pretrain", f"--settings={tmp_path / FORGED}", "--data=x"],
        ["pretrain", FORGED],
        ["pretrain", "mae-quickstart", "--data=x", f"--{FORGED}=3"],
        ["pretrain", "mae-quickstart", "--data=x", f"--init={FORGED}", f"--device={FORGED}"],
        [FORGED],
    ):
        assert main(words) in (2, 3, 4), words
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and all(c.isprintable() or c == "\n" for c in said), said


def test_formulas_in_a_table_are_text(photos: Path, canary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    formulas = ["=1+1", "+1", "-1+1", "@SUM(1)", f"=cmd|'/C touch {canary}'!A0", '=HYPERLINK("//evil.example")']
    rows = [f'{i:02}.png,"{formulas[i % 6].replace(chr(34), chr(34) * 2)}"' for i in range(40)]
    (photos / "table.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    assert set(open_data(str(photos / "table.csv")).train.classes) == set(formulas)
    (photos / "table.csv").write_text(f'path\n"{formulas[4]}"\n')
    assert main(["pretrain", "mae-quickstart", f"--data={photos / 'table.csv'}"]) == 3
    assert "D-0" in capsys.readouterr().err


def test_weights_that_are_not_finite_or_of_nothing_known_say_so(tmp_path: Path) -> None:
    """C15, C17: and what DINO writes, student and teacher one level down, is read."""
    vit = small_vit(seed=5)
    dino = {f"module.backbone.{name}": tensor for name, tensor in vit.state_dict().items()}
    torch.save(
        {"student": dino, "teacher": {f"backbone.{n}": t + 1 for n, t in vit.state_dict().items()}, "epoch": 3},
        tmp_path / "dino.pth",
    )
    other = small_vit(seed=6)
    init_from(other, str(tmp_path / "dino.pth"), teacher="student")
    assert same(other, vit)
    torch.save({"conv1.weight": torch.ones(3)}, tmp_path / "resnet.pth")
    assert "MAE" in refuse("K-31", tmp_path / "resnet.pth")

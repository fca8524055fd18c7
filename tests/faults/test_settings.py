"""Settings that are wrong are refused with exit code 2, in a sentence, at once, and without a trace (section H)."""

import json
import math
import random
import re
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from small_runs import FLAGS, HEAD_FLAGS, PLAIN_FLAGS, tiny
from tutelage import recipes
from tutelage.cli import main
from tutelage.engine.launch import launched
from tutelage.engine.settings import RunSettings, flatten
from tutelage.errors import SettingsError
from tutelage.options import option_names

METHODS = {
    "mae": FLAGS,
    "sdae": FLAGS,
    "pseudomae": [*FLAGS, *HEAD_FLAGS],
    "rc-mae": FLAGS,
    "lomar": [*PLAIN_FLAGS, "--method.window=2", "--method.num-windows=3"],
    "supervised": PLAIN_FLAGS,
    "finetune": PLAIN_FLAGS,
    "fixmatch": [*PLAIN_FLAGS, "--labels=100"],
}
VALUES = (
    "", " ", "nan", "inf", "-inf", "-1", "0", "1", "2", "3", "0.5", "1.5", "1e999", "-0.0", "1e-400", "9" * 400,
    "9007199254740993", "1_000", "0x10", "１２", "7", "64", "4096", "true", "None", "null", "[]", "[1,2]", "{}", "1 2",
    "../../etc/passwd", "\u202e", "\x1b[31m", "\udcff", "a" * 10_000, "mae", "token", "os:system", "$(id)", "%s%n",
)  # fmt: skip
CPU_SECONDS = 1.0


def test_mutated_words_are_accepted_or_refused_and_never_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], amount: Callable[..., int], figure: Callable[..., None]
) -> None:
    count, accepted, refused = amount(60, 100, 2000), 0, 0
    for seed in range(count):
        rng = random.Random(seed)
        method = rng.choice(list(METHODS))
        words = mutated_words(rng, method)
        code = door(tmp_path, capsys, f"{method}-quickstart", *words)
        accepted, refused = accepted + (code == 0), refused + (code == 2)
    assert accepted > count // 20 and refused > count // 3, "the mutations hit both sides"
    figure("mutated settings, words", f"{count}: {accepted} accepted, {refused} refused, 0 tracebacks")


def test_mutated_files_are_accepted_or_refused_and_never_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], amount: Callable[..., int], figure: Callable[..., None]
) -> None:
    count, accepted, refused, run = amount(60, 100, 2000), 0, 0, 0
    (tmp_path / "files").mkdir()
    for seed in range(count):
        rng = random.Random(seed)
        file = tmp_path / "files" / "settings.json"
        file.write_bytes(mutated_file(rng, tiny(rng.choice(list(METHODS)), data="")))
        code = door(tmp_path, capsys, f"--settings={file}")
        accepted, refused = accepted + (code == 0), refused + (code == 2)
        if code == 0 and run < count // 20 and affordable(json.loads(file.read_bytes())):
            run += 1
            words = ["pretrain", f"--settings={file}", "--data=digits", f"--out={tmp_path / 'files' / str(seed)}"]
            assert main([*words, "--steps=1", "--save-steps=1", "--monitors=0"]) in (0, 2, 3), capsys.readouterr().err
    assert accepted > count // 20 and refused > count // 3 and run
    figure(
        "mutated settings, files", f"{count}: {accepted} accepted ({run} of them run), {refused} refused, 0 tracebacks"
    )


def door(place: Path, capsys: pytest.CaptureFixture[str], *words: str) -> int:
    """0 where settings are accepted (the next thing is then that there is no data), 2 where they are refused."""
    capsys.readouterr()
    before, started = set(place.iterdir()), time.process_time()
    code = main(["pretrain", *words, "--data", str(place / "nowhere"), "--out", str(place / "run")])
    took, said = time.process_time() - started, capsys.readouterr().err
    assert took < CPU_SECONDS, f"{took:.1f} s for {words}"
    assert "Traceback" not in said and "U-01" not in said, (words, said)
    assert set(place.iterdir()) == before, words
    if code == 3:
        assert said.startswith("D-01: there is no file or folder"), (words, said)
        return 0
    assert (code == 2 and said.startswith("C-")) or said.startswith("N-05"), (words, code, said)
    assert len(said) < 12_000 and all(c.isprintable() or c == "\n" for c in said), (words, said)
    return 2


def mutated_words(rng: random.Random, method: str) -> list[str]:
    """The words of a small run, with one to three mistakes."""
    model = type(tiny(method))
    words = list(METHODS[method])
    for _ in range(rng.randint(1, 3)):
        kind, i = rng.randrange(6), rng.randrange(len(words))
        if kind == 0:
            words[i] = misspelt(rng, words[i])
        elif kind == 1:
            words[i] = f"{words[i].partition('=')[0]}={rng.choice(VALUES)}"
        elif kind == 2:
            option = rng.choice([name for name in option_names(model) if name not in ("--data", "--out")])
            words.insert(i, f"{option}={rng.choice(VALUES)}")
        elif kind == 3:
            words.insert(
                i, rng.choice(("-", "--", "-x", "--=", "---", "--method", "--method.", "--backbone=3", "x", "--no-x"))
            )
        elif kind == 4:
            words[i : i + 1] = [words[i].partition("=")[0]]
        else:
            words.insert(i, words[i])
    return words


def misspelt(rng: random.Random, word: str) -> str:
    if len(word) < 3:
        return word * 2
    i, letter = rng.randrange(2, len(word)), rng.choice(string.ascii_lowercase + ".-_")
    return rng.choice((word[:i] + word[i + 1 :], word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :]))


def mutated_file(rng: random.Random, settings: RunSettings[Any]) -> bytes:
    """The settings as a file, with one to three mistakes in its values, names or bytes."""
    values = settings.model_dump(mode="json")
    for _ in range(rng.choice((1, 1, 2, 3))):
        section = values
        while True:
            name = rng.choice(list(section))
            if not isinstance(section[name], dict) or not section[name] or rng.random() < 0.2:
                break
            section = section[name]
        kind = rng.randrange(7)
        if kind == 0:
            section[name] = rng.choice(STRANGE)
        elif kind > 3 and section[name] is None:
            section[name] = rng.choice((None, 1, 2, 4, 8, "cpu"))
        elif kind > 3:
            section[name] = mild(rng, section[name])
        elif kind == 1:
            section[misspelt(rng, f"xx{name}")[2:]] = section.pop(name)
        elif kind == 2:
            section[rng.choice(("_target_", "x", "", "\x1b]0;x\x07", "__class__", "a" * 5000))] = rng.choice(STRANGE)
        else:
            section[name] = [section[name]] if rng.random() < 0.5 else {"x": section[name]}
        if not isinstance(values, dict) or not values:
            break
    text = json.dumps(values).encode()
    if rng.random() < 0.2:
        i = rng.randrange(len(text))
        text = rng.choice((text[:i], text[:i] + bytes([rng.randrange(256)]) + text[i + 1 :], text[:i] + text[: i + 9]))
    return text


STRANGE: tuple[Any, ...] = (
    None, True, False, "", "7", "nan", -1, 0, 1, 2, 0.5, 1.5, 1e308, 10**400, 2**60, float("nan"), float("inf"), [], {}, [1],
    [1, 2], [0.1, 0.9], [0.9, 0.1], "\udcff", "x" * 10_000, {"_target_": "os.system"}, [[[[]]]], 16, 32,
)  # fmt: skip


def mild(rng: random.Random, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):  # it may have grown beyond any float by an earlier change
        return value * rng.choice((5, 9, 15, 20, 30)) // 10
    if isinstance(value, float):
        return value * rng.choice((0.5, 0.9, 1.5, 2, 3))
    return [mild(rng, item) for item in value][:: rng.choice((1, -1))] if isinstance(value, list) else value


def affordable(values: dict[str, Any]) -> bool:
    """Whether a step with these settings takes about a second."""
    limits = {"depth": 3, "layers": 4, "image_size": 64, "workers": 4, "bottleneck": 64, "width": 64, "hidden": 64}
    flat = flatten(values)
    return (
        values.get("init") is None
        and values.get("device") != "cuda"
        and all(
            value <= limits.get(name.rpartition(".")[2], 64)
            for name, value in flat.items()
            if isinstance(value, int) and name not in ("seed", "steps", "save_steps", "keep_steps", "log_steps")
        )
    )


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "C-05"),
        ("[]", "it holds a list"),
        ('{"a": 1, "a": 2}', "'a' comes twice"),
        ('{"epochs": NaN}', "NaN is no number"),
        ('{"epochs": -Infinity}', "-Infinity is no number"),
        ("[" * 10_000, "nested too deeply"),
        ('{"x":' * 10_000 + "1" + "}" * 10_000, "nested too deeply"),
        ('{"epochs": 3}', "it names no method"),
        ('{"method": 3}', "its method is no section"),
        ('{"method": {"name": "mea"}}', "C-04: there is no method 'mea'. Did you mean 'mae'?"),
        ('{"method": {"name": "__init__"}}', "C-04"),
        ('{"method": {"name": "../data/index"}}', "C-04"),
        ('{"method": {"name": "os"}}', "C-04"),
        ("\xff\xfe", "C-05"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_settings_is_refused_with_the_reason(
    text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "settings.json"
    file.write_text(text, encoding="latin-1")
    assert main(["pretrain", f"--settings={file}", "--data=x"]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"epochs": "7"}, "epochs is '7': input should be a valid number"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 1e400}, "Infinity is no number"),
        ({"seed": 2**60}, "seed is"),
        ({"bacth_size": 8}, "there is no setting 'bacth_size'. Did you mean 'batch_size'?"),
        ({"method": {"mask_ratoi": 0.5}}, "there is no setting 'method.mask_ratoi'. Did you mean 'method.mask_ratio'?"),
        ({"_target_": "os.system", "args": ["touch canary"]}, "there is no setting '_target_'"),
        ({"method": {"_target_": "subprocess.run"}}, "there is no setting 'method._target_'"),
        ({"backbone": {"depth": 10**6}}, "less than or equal to 1000"),
        ({str(i): 0 for i in range(1000)}, "And 995 more."),
        ({"epochs": "\x1b[2J\nN-01: forged"}, r"\x1b[2J\nN-01"),
    ],
)  # fmt: skip
def test_a_file_with_a_wrong_setting_names_it(
    change: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = tiny("mae").model_dump(mode="json")
    for name, value in change.items():
        values[name] = values[name] | value if isinstance(value, dict) else value
    (tmp_path / "settings.json").write_text(json.dumps(values))
    assert main(["pretrain", f"--settings={tmp_path / 'settings.json'}", f"--out={tmp_path / 'run'}"]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and len(said) < 3000
    assert [path.name for path in tmp_path.iterdir()] == ["settings.json"]


RULES = {
    "minimum": "greater than or equal to",
    "exclusiveMinimum": "greater than",
    "maximum": "less than or equal to",
    "exclusiveMaximum": "less than",
}
Name = tuple[str | int, ...]


def numbers(schema: dict[str, Any], sections: dict[str, Any], name: Name = ()) -> Iterator[tuple[Name, dict[str, Any]]]:
    """The names and schemas of all numbers of some settings."""
    schema = sections[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    if schema.get("type") in ("integer", "number") and "enum" not in schema:
        yield name, schema
    inner = [(name, choice) for choice in schema.get("anyOf", ())]
    inner += [((*name, i), item) for i, item in enumerate(schema.get("prefixItems", ()))]
    inner += [((*name, 0), schema["items"])] if "items" in schema else []
    inner += [((*name, field), value) for field, value in schema.get("properties", {}).items()]
    for place, value in inner:
        yield from numbers(value, sections, place)


def just_beyond(schema: dict[str, Any], rule: str) -> float:
    if rule.startswith("exclusive"):
        return schema[rule]
    side = 1 if rule == "maximum" else -1
    return schema[rule] + side if schema["type"] == "integer" else math.nextafter(schema[rule], side * math.inf)


def put(values: Any, name: Name, value: float) -> Any:
    """The settings with another value in one place, and with the sections and pairs on the way to it."""
    if not name:
        return value
    first, *rest = name
    if isinstance(first, int):
        values = values if isinstance(values, list) and values else [16, 16]
        return [put(item, tuple(rest), value) if i == first else item for i, item in enumerate(values)]
    return {**(values or {}), first: put((values or {}).get(first), tuple(rest), value)}


@pytest.mark.parametrize("recipe", [name for name in recipes.names() if name.endswith("quickstart")])
def test_a_number_just_beyond_its_bound_is_refused_by_name_with_the_bound(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """H2, by the schema; what all methods share is asked of MAE."""
    default = recipes.load(recipe)
    schema, values = type(default).model_json_schema(), default.model_dump(mode="json")
    file = tmp_path / "settings.json"
    for name, number in numbers(schema, schema["$defs"]):
        without_a_branch = "branch" in name and default.method.branch is None
        if without_a_branch or (name[0] != "method" and recipe != "mae-quickstart"):
            continue
        assert {"minimum", "exclusiveMinimum"} & number.keys(), f"{name} may be anything"
        for rule in RULES.keys() & number.keys():
            beyond = just_beyond(number, rule)
            file.write_text(json.dumps(put(values, name, beyond)))
            assert main(["pretrain", f"--settings={file}", f"--out={tmp_path / 'run'}"]) == 2, name
            place = r"\.".join(rf"(\S+ \S+\.)?{part}" if isinstance(part, int) else part for part in name)
            told = rf"{place}(\.\S+)? is {re.escape(repr(beyond))}: input should be {RULES[rule]} {number[rule]}\."
            said = capsys.readouterr().err
            assert said.startswith("C-02: ") and re.search(told, said), (told, said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["mae", "sdae", "pseudomae", "rc-mae", "lomar", "semi-mae"])
@pytest.mark.parametrize(
    ("ratio", "told"), [("0", "is 0.0: it should be greater than 0"), ("1", "is 1.0: it should be less than 1")]
)
def test_a_mask_of_nothing_and_one_of_all_are_refused(
    method: str, ratio: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """G7."""
    section = "method.branch" if method == "semi-mae" else "method"
    words = [f"{method}-quickstart", "--data=digits", f"--out={tmp_path / 'run'}", f"--{section}.mask-ratio={ratio}"]
    assert main(["pretrain", *words]) == 2
    assert capsys.readouterr().err.startswith(f"C-02: {section}.mask_ratio {told}.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["mae", "sdae", "pseudomae", "rc-mae", "lomar", "semi-mae"])
def test_a_picture_of_a_single_patch_is_refused(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """G7: there is nothing to rebuild it from."""
    words = [f"{method}-quickstart", "--data=digits", f"--out={tmp_path / 'run'}", "--backbone.image-size=4"]
    words += ["--method.window=1", "--method.num-windows=1"] if method == "lomar" else []
    assert main(["pretrain", *words, "--backbone.patch-size=4"]) == 2
    said = capsys.readouterr().err
    assert re.match(r"N-05: .* of (the )?1 patches", said), said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("batch_size", [2, 32, 100, 4096])
def test_a_batch_that_three_processes_cannot_share_is_refused_with_one_that_they_can(batch_size: int) -> None:
    """I5."""
    with pytest.raises(SettingsError, match=rf"^C-25: batch_size {batch_size} .* 3 processes") as refused:
        tiny("mae", batch_size=batch_size).check(3)
    if batch_size > 3:
        offered = re.search(r"Use a batch_size of (\d+)\.$", str(refused.value))
        assert offered and abs(int(offered[1]) - batch_size) < 3 * 16, refused.value
        tiny("mae", batch_size=int(offered[1])).check(3)


def test_a_settings_file_of_a_gigabyte_and_one_without_end_are_refused_unread(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    huge = tmp_path / "huge.json"
    with huge.open("wb") as file:
        file.truncate(10**9)
    started = time.process_time()
    for path, told in ((huge, "larger than 10 MB"), (Path("/dev/zero"), "it is no file"), (tmp_path, "it is no file")):
        assert main(["pretrain", f"--settings={path}", "--data=x"]) == 2
        assert told in capsys.readouterr().err
    assert time.process_time() - started < CPU_SECONDS


LEFTOVERS = (
    {"RANK": "3"},
    {"WORLD_SIZE": "8"},
    {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3"},
    {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"},
    {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "10.0.0.1"},
    {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2"},
    {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "a[1-4]", "WORLD_SIZE": "4"},
    {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "PMI_RANK": "3", "LOCAL_RANK": "3"},
)


@pytest.mark.parametrize("leftovers", LEFTOVERS, ids=lambda names: "+".join(names))
def test_what_another_launcher_left_in_the_environment_starts_one_process(
    leftovers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.distributed as dist

    for name, value in leftovers.items():
        monkeypatch.setenv(name, value)
    with launched("cpu") as device:
        assert device.type == "cpu" and not dist.is_initialized()

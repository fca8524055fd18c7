"""The main job, once: pretrain PseudoMAE on real pictures, evaluate, export, and say what was found."""

import shutil
import sys
import time
from pathlib import Path

import timm

from tutelage.cli import main
from tutelage.data.index import open_data
from tutelage.errors import DataError

OUT = Path("demo")
STEPS = 1200
SMALL = (
    "--backbone.image-size 24 --backbone.width 64 --backbone.depth 4 --method.decoder.width 64 --method.decoder.heads 4"
)
"""A ViT of 64 x 4 on 36 patches: a quarter of the quick-start's work a picture, so that minutes show something."""


def say(text: str) -> None:
    """A line of the demo's own."""
    print(text, file=sys.stderr, flush=True)


def step(*words: str) -> None:
    """Show a command, run it, and stop where it fails."""
    say(f"\n$ tutelage {' '.join(words)}")
    code = main(words)
    if code:
        sys.exit(code)


def data_set() -> str:
    """fashion-mnist where a source of it answers, else digits, which scikit-learn brings."""
    try:
        open_data("fashion-mnist")
    except DataError as error:
        say(f"fashion-mnist is not to be had here, so the demo takes digits. ({error})")
        return "digits"
    return "fashion-mnist"


def demo() -> None:
    """Pretrain, evaluate, export, load."""
    started = time.monotonic()
    if (OUT / "run" / "settings.json").exists():  # an earlier demo's, and nobody else's
        shutil.rmtree(OUT)
    data, run, exported = data_set(), str(OUT / "run"), str(OUT / "backbone")
    size = [*SMALL.split(), "--steps", str(STEPS), "--monitors", "4"]
    step("pretrain", "pseudomae-quickstart", "--data", data, *size, "--out", run)
    step("evaluate", "knn", run, "--data", data, "--train-pictures", "10000")
    step("export", run, "--out", exported)
    step("report", run)
    backbone = timm.create_model(f"local-dir:{exported}", pretrained=True)
    parameters = sum(p.numel() for p in backbone.parameters())
    say(f"\ntimm loaded the backbone: {type(backbone).__name__}, {parameters / 1e6:.1f} M parameters")
    say(
        f"the whole demo took {(time.monotonic() - started) / 60:.1f} minutes; {STEPS} steps of a small encoder are a taste"
    )
    say(f"look at   {OUT}/run/report.html and {OUT}/run/pictures/")
    say(f"go on     .venv/bin/tutelage pretrain pseudomae-quickstart --data {data} --epochs 5")
    say("yours     .venv/bin/tutelage pretrain pseudomae-quickstart --data FOLDER_OF_PICTURES")


if __name__ == "__main__":
    demo()

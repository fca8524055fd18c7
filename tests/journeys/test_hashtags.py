"""Learning from hashtags through the command line: told what became of words, judged, and asked what it sees."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

from small_runs import PLAIN_FLAGS
from tutelage.cli import main
from tutelage.data.wordnet import open_wordnet
from wordnets import write_wordnet

WORDS = {0: "#Boots #love", 1: "#box"}
"""Of dark pictures, and of bright ones."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright pictures, a third without a word, and WordNet."""
    folder = tmp_path_factory.mktemp("hashtags")
    (folder / "photos").mkdir()
    rows = []
    for i in range(240):
        bright = i % 2
        Image.effect_noise((16, 16), 20).point([min(255, v // 4 + 180 * bright) for v in range(256)]).save(
            folder / "photos" / f"{i:03}.png"
        )
        rows += [f"photos/{i:03}.png,{WORDS[bright]}"] if i % 3 else []
    (folder / "tags.csv").write_text("\n".join(["path,tags", *rows]) + "\n")
    write_wordnet(folder / "cache" / "wordnet")
    return folder


@pytest.fixture
def _wordnet(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(folder / "cache"))
    open_wordnet.cache_clear()
    yield
    open_wordnet.cache_clear()


@pytest.mark.usefixtures("_wordnet")
def test_it_learns_what_people_wrote_and_says_it_of_pictures_without_a_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, photos = folder / "run", folder / "photos"
    words = ["pretrain", "weakly-supervised-quickstart", f"--data={photos}", f"--tags={folder / 'tags.csv'}"]
    assert main([*words, f"--out={run}", "--steps=60", *PLAIN_FLAGS]) == 0
    said = capsys.readouterr().err
    assert "love" in said and "boot.n.01" in (run / "tags.csv").read_text()
    last = json.loads((run / "monitors.jsonl").read_text().splitlines()[-1])
    assert last["classifier_accuracy"] > 0.9
    assert "<h3>" in (run / "report.html").read_text()

    assert main(["predict", str(run), f"--data={photos}", f"--out={folder / 'said'}"]) == 0
    (table,) = (folder / "said").glob("*.csv")
    rows = list(csv.reader(table.open()))[1:]
    right = [("boot.n.01", "box.n.01")[int(Path(row[0]).stem) % 2] in row for row in rows]
    assert len(rows) == 240 and sum(right) > 0.9 * len(right)

    for i in range(240):
        (folder / "classes" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        (folder / "classes" / str(i % 2) / f"{i}.png").write_bytes((photos / f"{i:03}.png").read_bytes())
    capsys.readouterr()
    assert main(["evaluate", "classifier", str(run), f"--data={folder / 'classes'}"]) == 3
    assert "D-26: " in capsys.readouterr().err
    assert main(["evaluate", "knn", str(run), f"--data={folder / 'classes'}", "--no-baselines"]) == 0

"""Hashtags as careless people would write them, for the pictures of Fashion-MNIST: a table for `--tags`.

    .venv/bin/python benchmarks/learning/hashtags.py tags-0.csv [--wrong 0.2] [--missing 0.3] [--seed 0]

Of a picture's class one word or more are written, 1.5 on average (its name, a synonym or what it is a kind of, in one of
several spellings), unless they are missing; with the rate `wrong` they are another class's, of which some fit all the same (a
coat is a garment too). Beside them come words that have nothing to do with the picture, more often frequent ones: 1.5 on
average, of which half are no nouns of WordNet. The same seed writes the same table; training and test pictures have tags.
"""

import argparse
from pathlib import Path

import numpy as np

from tutelage.data.index import open_data
from tutelage.tables import csv_text

WORDS = {
    "T-shirt/top": ("tshirt", "T-shirt", "tee", "tees", "jersey", "top", "clothing"),
    "trouser": ("trousers", "pants", "Trouser", "slacks", "trouserpants", "garment"),
    "pullover": ("pullover", "Pullovers", "sweater", "knitwear", "slipover", "clothing"),
    "dress": ("dress", "dresses", "frock", "Gown", "garment"),
    "coat": ("coat", "coats", "Overcoat", "outerwear", "garment"),
    "sandal": ("sandal", "sandals", "flipflop", "Sandals", "footwear", "shoe"),
    "shirt": ("shirt", "shirts", "Shirt", "dressshirt", "garment", "clothing"),
    "sneaker": ("sneaker", "sneakers", "tennisshoe", "gymshoes", "footwear", "shoe"),
    "bag": ("bag", "handbag", "Bags", "purse", "pocketbook", "container"),
    "ankle boot": ("boot", "boots", "ankleboot", "Boots", "footwear", "shoe"),
}
"""Of each class its names, synonyms and, last, what it is a kind of: some of the words of several classes are the same."""
OTHERS = (
    "love", "instagood", "style", "ootd", "summer", "tbt", "beautiful", "nofilter", "happy", "picoftheday", "friends", "selfie",
    "city", "fashionista", "sun", "likeforlike", "dog", "followme", "coffee", "dailypic", "music", "l4l", "beach", "fitspo",
)  # fmt: skip
"""What people write to any picture: the k-th as often as 1 / k (Zipf)."""


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--wrong", type=float, default=0.2, help="share of written class words that are of another class"
    )
    parser.add_argument("--missing", type=float, default=0.3, help="share of pictures without a word of a class")
    parser.add_argument("--others", type=float, default=1.5, help="other words of a picture, on average")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    pictures = open_data("fashion-mnist").everything
    often = 1 / np.arange(1, len(OTHERS) + 1)
    rows: list[list[str]] = [["path", "tags"]]
    for i, label in enumerate(pictures.labels.tolist()):
        written = []
        if rng.random() >= args.missing:
            if rng.random() < args.wrong:
                label = (label + rng.integers(1, len(pictures.classes))) % len(pictures.classes)
            words = WORDS[pictures.classes[label]]
            written = list(rng.choice(words, size=min(len(words), 1 + rng.poisson(0.5)), replace=False))
        written += list(rng.choice(OTHERS, size=rng.poisson(args.others), p=often / often.sum()))
        rows.append([pictures.name(i), " ".join(f"#{word}" for word in written)])
    args.out.write_text(csv_text(rows))


if __name__ == "__main__":
    main()

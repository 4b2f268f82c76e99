"""Prose in Markdown files, folded into lines that fit a page."""

from textwrap import fill

WIDTH = 110


def paragraph(text: str, *, indent: str = "") -> str:
    """Fold a text into lines of at most `WIDTH` characters; a number and its percent sign stay together."""
    together = text.replace(" %", "\N{NO-BREAK SPACE}%")
    return fill(together, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def item(line: str) -> str:
    """Fold an item of a list, with its further lines indented below its text."""
    return paragraph(line, indent="  ")

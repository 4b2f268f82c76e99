"""Prose in Markdown files: lines that a page shows without scrolling."""

from textwrap import fill

WIDTH = 110


def paragraph(text: str, *, indent: str = "") -> str:
    """Lines of at most `WIDTH` characters; a number and its percent sign stay together."""
    together = text.replace(" %", "\N{NO-BREAK SPACE}%")
    return fill(together, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def item(line: str) -> str:
    """A line of a list, its further lines below its text."""
    return paragraph(line, indent="  ")

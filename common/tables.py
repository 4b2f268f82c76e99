"""Tables that people read."""

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

MISSING = "–"


def text_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], *, texts: int = 1) -> str:
    """Rows below headers; the first `texts` columns are aligned left, the others, with numbers, right."""
    aligned = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(rows, headers=headers, colalign=aligned, disable_numparse=True)


def record_table(records: Sequence[Mapping[str, Any]], *, texts: int = 1) -> str:
    """A row per record, below the keys, which all records have in common."""
    return text_table([list(record.values()) for record in records], list(records[0]), texts=texts)


def name_table(rows: Sequence[tuple[str, Any]]) -> str:
    """A line for each name with its value."""
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def number(value: float | None, form: str, factor: float = 1, *, unit: str = "") -> str:
    """A number times `factor` in a format such as `.1f`, with its unit behind it; a dash where it is missing."""
    return MISSING if value is None or value != value else f"{value * factor:{form}}{unit}"


def numbers(values: Sequence[float | None], form: str, factor: float = 1) -> str:
    """Several numbers in one cell."""
    return " / ".join(number(value, form, factor) for value in values)


def size(size_bytes: float) -> str:
    """Bytes in a unit that fits."""
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.2f} MB"

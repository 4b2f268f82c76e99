"""Tables for people to read."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tabulate import tabulate

MISSING = "–"


def text_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], *, texts: int = 1) -> str:
    """Rows below headers; the first `texts` columns are aligned left, the others, with numbers, right."""
    aligned = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(rows, headers=headers, colalign=aligned, disable_numparse=True)


def markdown_table(rows: Sequence[Sequence[Any]], headers: Sequence[str], *, texts: int = 1) -> str:
    """The same in Markdown. Cells must not contain a vertical bar."""
    aligned = ["left"] * texts + ["right"] * (len(headers) - texts)
    return tabulate(rows, headers=headers, colalign=aligned, disable_numparse=True, tablefmt="pipe")


def record_table(records: Sequence[Mapping[str, Any]], *, texts: int = 1) -> str:
    """A row per record, below the keys; all records must have the same keys."""
    return text_table([list(record.values()) for record in records], list(records[0]), texts=texts)


def name_table(rows: Sequence[tuple[str, Any]]) -> str:
    """A line for each name with its value."""
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def number(value: float | None, form: str, factor: float = 1, *, unit: str = "") -> str:
    """A number times `factor` in a format such as `.1f`, followed by its unit; a dash if it is missing.

    A number other than zero is never printed as zero: if the format has too few digits, the first digit is printed.
    """
    if value is None or value != value:
        return MISSING
    text = f"{value * factor:{form}}"
    if value and not re.search("[1-9]", text):
        sign, percent = "+"[: form.startswith("+")], "%"[: form.endswith("%")]
        text = f"{value * factor * (100 if percent else 1):{sign}.1g}{percent}"
    return f"{text}{unit}"


def percent(share: float | None, digits: int = 0, *, signed: bool = True) -> str:
    """A share of 1 in percent, as `−48 %`, by the rules of `number`."""
    return number(share, f"{'+' if signed else ''}.{digits}f", 100, unit=" %").replace("-", "−")


def numbers(values: Sequence[float | None], form: str, factor: float = 1) -> str:
    """Several numbers in one cell."""
    return " / ".join(number(value, form, factor) for value in values)


def quantity(count: int, what: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


class Unit(NamedTuple):
    """How the numbers of a column are written: times `factor`, with so many digits after the point."""

    name: str
    factor: float
    digits: int

    def text(self, value: float | None) -> str:
        """A number in this unit, without its name; a dash if it is missing."""
        return number(value, f".{self.digits}f", self.factor)


_TIMES = (("s", 1.0, 10.0), ("ms", 1e3, 1e-3), ("µs", 1e6, 0.0))  # name, factor, least median value
_BYTES = (("GB", 1e-9, 1e9), ("MB", 1e-6, 1e6), ("kB", 1e-3, 1e3), ("B", 1.0, 0.0))


def time_unit(seconds: Iterable[float | None]) -> Unit:
    """The unit in which the median of these times reads best."""
    return _unit(seconds, _TIMES, "ms")


def byte_unit(sizes: Iterable[float | None]) -> Unit:
    """The unit in which the median of these numbers of bytes reads best."""
    return _unit(sizes, _BYTES, "MB")


def _unit(values: Iterable[float | None], units: Sequence[tuple[str, float, float]], usual: str) -> Unit:
    """Three digits of the median, at most two after the point; zeros do not count."""
    there = sorted(abs(value) for value in values if value and value == value)
    if not there:
        return next(Unit(name, factor, 1) for name, factor, _ in units if name == usual)
    middle = there[len(there) // 2]
    name, factor = next((name, factor) for name, factor, least in units if middle >= least)
    return Unit(name, factor, min(max(3 - math.floor(math.log10(middle * factor)), 0), 2))


def size(size_bytes: float) -> str:
    """Bytes in a unit that fits."""
    for unit, factor in (("GB", 1e-9), ("MB", 1e-6), ("kB", 1e-3)):
        if size_bytes * factor >= 0.1:
            return f"{size_bytes * factor:.2f} {unit}"
    return f"{size_bytes:.0f} B"

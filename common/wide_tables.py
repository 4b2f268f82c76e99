"""Tables with more columns than a line has room for."""

from collections.abc import Iterator, Sequence

from common.tables import text_table


def wide_table(first: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Tables of at most `width` characters, each with the first column and as many of the others as fit.

    A column is its header and its cells, which may have several lines.
    """
    room = width - _width(first)
    block: list[Sequence[str]] = []
    for column in columns:
        if block and room < _width(column) + 2:
            yield _table(first, block)
            block, room = [], width - _width(first)
        block.append(column)
        room -= _width(column) + 2  # two spaces in front
    yield _table(first, block)


def _width(column: Sequence[str]) -> int:
    """Characters that a column takes; headers are padded by two."""
    header, *cells = (max(map(len, cell.splitlines() or [""])) for cell in column)
    return max(header + 2, *cells)


def _table(first: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    headers, *rows = zip(first, *columns, strict=True)
    return text_table(rows, headers)

"""Tables with more columns than fit on a line."""

from collections.abc import Iterator, Sequence

from common.tables import text_table


def wide_table(first: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """Split a table into tables of at most `width` characters, each with the first column and as many others as fit.

    A column is a header and its cells, which may have several lines.
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
    """The width of a column in characters; headers are padded by two."""
    header, *cells = (max(map(len, cell.splitlines() or [""])) for cell in column)
    return max(header + 2, *cells)


def _table(first: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    headers, *rows = zip(first, *columns, strict=True)
    return text_table(rows, headers)

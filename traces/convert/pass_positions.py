"""Rows whose positions restart in every forward pass, as hooks in a serving engine count them."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace

from traces.convert.routing_row import Row


def by_pass(rows: Iterable[Row], skip: int, drop: Callable[[int], None]) -> Iterator[Row]:
    """Convert rows whose positions restart in every forward pass to rows whose positions count through a request.

    Assumes that requests ran one at a time: a pass of several tokens is the prefill of a new request, and passes of one
    token are its decode steps. The first `skip` passes are dropped; `drop` is called with the number of their rows.
    """
    number, begun, before = -1, 0, 0  # request, iteration and tokens so far
    last: Hashable = None
    for count, one in enumerate(_passes(rows)):
        if count < skip:
            drop(len(one))
            continue
        width = len({str(row.position) for row in one})
        if width > 1 or number < 0 or one[0].request != last:
            number, begun, before, last = number + 1, 0, 0, one[0].request
        for row in one:
            at = row.position + before if type(row.position) is int else row.position
            yield replace(row, request=f"{last or 0}#{number}", position=at, iteration=begun, phase=None)
        begun, before = begun + 1, before + width


def _passes(rows: Iterable[Row]) -> Iterator[list[Row]]:
    one: list[Row] = []
    for row in rows:
        if one and row.position == 0 and not row.layer:
            yield one
            one = []
        one.append(row)
    if one:
        yield one

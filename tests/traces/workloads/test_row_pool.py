"""Chains of rows have the wanted length, reuse no row while others are unused, and keep to one source if possible."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from traces.workloads.row_pool import Piece, RowPool

ROWS = some.dictionaries(some.integers(0, 20), some.integers(0, 6), min_size=1).filter(lambda rows: any(rows.values()))
CHAINS = some.lists(some.tuples(some.integers(0, 25), some.none() | some.integers(0, 20)), max_size=12)


def rows_of(pieces: list[Piece]) -> list[tuple[int, int]]:
    return [(piece.request, row) for piece in pieces for row in range(piece.start, piece.stop)]


@given(rows=ROWS, chains=CHAINS, sources=some.integers(1, 4), seed=some.integers(0, 5))
def test_laws_of_every_chain(
    rows: dict[int, int], chains: list[tuple[int, int | None]], sources: int, seed: int
) -> None:
    source_of = {request: f"source {request % sources}" for request in rows}
    pool = RowPool(rows, source_of, np.random.default_rng(seed))
    uses = Counter({(request, row): 0 for request, count in rows.items() for row in range(count)})
    size = len(uses)
    for wanted, first in chains:
        fewest = min(uses.values())
        unused = Counter(source_of[request] for (request, _), times in uses.items() if times == fewest)
        begins = first in rows and bool(rows[first]) and all(uses[first, row] == fewest for row in range(rows[first]))
        pieces = pool.take(wanted, first=first)
        taken = rows_of(pieces)
        assert len(taken) == wanted
        if not wanted:
            continue
        if begins:
            assert taken[0] == (first, 0)
        own = source_of[taken[0][0]]
        together = min(wanted, unused[own])
        assert {source_of[request] for request, _ in taken[:together]} == {own}
        uses.update(taken)
        assert max(uses.values()) - min(uses.values()) <= 1
        total = sum(uses.values())
        assert pool.repeated == pytest.approx(1 - sum(map(bool, uses.values())) / total, abs=1e-12)
    assert len(uses) == size


def test_equal_seeds_take_the_same_rows_and_others_do_not() -> None:
    rows, source_of = dict.fromkeys(range(30), 3), dict.fromkeys(range(30), "one")
    one, same, other = (RowPool(rows, source_of, np.random.default_rng(seed)).take(50) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_what_is_left_of_a_request_comes_after_those_that_are_whole() -> None:
    rows, source_of = dict.fromkeys(range(3), 4), dict.fromkeys(range(3), "one")
    pool = RowPool(rows, source_of, np.random.default_rng(0))
    found = [pool.take(3) for _ in range(4)]
    starts = [[piece.start for piece in pieces] for pieces in found]
    assert starts == [[0], [0], [0], [3, 3, 3]]

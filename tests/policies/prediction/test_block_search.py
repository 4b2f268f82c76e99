"""Blocks of iterations that learn, against one iteration at a time: by plain arithmetic, and to the last bit."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prediction.cosine import MAP_GRID, UNIT_GRID, on_grid, unit
from policies.prediction.expert_map_store import BLOCK_ROWS, ExpertMapStore

LAYERS, EXPERTS, HIDDEN = 4, 5, 6


def cosine(a, b):
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def drawn(seed, counts, hidden):
    """Maps and embeddings of iterations that have so many records each."""
    rng = np.random.default_rng(seed)
    rows = sum(counts)
    maps = rng.dirichlet(np.full(EXPERTS, 0.5), size=(rows, LAYERS)).astype(np.float32)
    return maps, None if hidden is None else rng.normal(size=(rows, hidden)).astype(np.float32)


def plain(maps, embeddings, counts, stored, capacity, distance):
    """What each record finds, after each layer and by its embedding, and what the store holds in the end; eq. 4, 5, 9.

    Records are numbers; the first `stored` fill the store before.
    """
    share = 0.0 if embeddings is None else distance / LAYERS
    slots = list(range(stored))
    found, nearest, first = [], [], stored
    for count in counts:
        records = range(first, first + count)
        for record in records:
            prefixes = [
                [cosine(maps[record, :end], maps[stored_record, :end]) for stored_record in slots]
                for end in range(1, LAYERS + 1)
            ]
            found.append([int(np.argmax(each)) for each in prefixes])
            if embeddings is not None:
                nearest.append(
                    int(np.argmax([cosine(embeddings[record], embeddings[stored_record]) for stored_record in slots]))
                )
        for record in records:
            if len(slots) < capacity:
                slots.append(record)
                continue
            redundancy = [(1 - share) * cosine(maps[record], maps[stored_record]) for stored_record in slots]
            if embeddings is not None:
                alike = [share * cosine(embeddings[record], embeddings[stored_record]) for stored_record in slots]
                redundancy = np.add(redundancy, alike)
            slots[int(np.argmax(redundancy))] = record
        first += count
    return found, nearest, slots


def filled(maps, embeddings, stored, capacity, distance):
    hidden = None if embeddings is None else embeddings.shape[1]
    store = ExpertMapStore(LAYERS, EXPERTS, capacity=capacity, prefetch_distance=distance, hidden=hidden)
    store.add(maps[:stored], None if embeddings is None else embeddings[:stored])
    return store


def learned(store, maps, embeddings, counts, groups):
    """Search and learn so many iterations at a time, `groups`; what was found, and the entries that had it."""
    found = {"index": [], "score": [], "nearest": [], "near_score": [], "read": [], "near_read": []}
    counts, first = list(counts), 0
    for group in groups:
        some, counts = counts[:group], counts[group:]
        end = first + sum(some)
        given = None if embeddings is None else embeddings[first:end]
        block = store.block(maps[first:end], given, [0, *np.cumsum(some[:-1]).tolist()], learn=True)
        found["index"] += block.index.tolist()
        found["score"] += block.score.tolist()
        found["read"] += store.maps(block.entry, np.arange(LAYERS)).tolist()
        if block.nearest is not None:
            found["nearest"] += block.nearest.index.tolist()
            found["near_score"] += block.nearest.score.tolist()
            found["near_read"] += store.maps(block.nearest_entry, 0).tolist()
        store.keep(block)
        first = end
    assert not counts
    entries = store.maps(np.arange(store.count)[:, None], np.arange(LAYERS))
    return found, entries.tolist()


COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=8)


@given(
    counts=COUNTS,
    stored=st.integers(1, 9),
    room=st.integers(0, 6),
    hidden=st.sampled_from([None, HIDDEN]),
    distance=st.integers(1, LAYERS),
    seed=st.integers(0, 99),
)
def test_a_block_finds_and_replaces_the_same_as_plain_arithmetic(counts, stored, room, hidden, distance, seed):
    maps, embeddings = drawn(seed, [stored, *counts], hidden)
    index, nearest, slots = plain(maps, embeddings, counts, stored, stored + room, distance)
    store = filled(maps, embeddings, stored, stored + room, distance)
    rest = None if embeddings is None else embeddings[stored:]
    found, entries = learned(store, maps[stored:], rest, counts, [len(counts)])
    assert found["index"] == index
    assert found["nearest"] == nearest
    assert entries == maps[slots].tolist()


@given(
    data=st.data(),
    counts=COUNTS,
    stored=st.integers(1, 9),
    room=st.integers(0, 6),
    hidden=st.sampled_from([None, HIDDEN]),
    twins=st.booleans(),
    seed=st.integers(0, 99),
)
def test_grouping_iterations_changes_no_bit(data, counts, stored, room, hidden, twins, seed):
    """Twins: half of the records occur twice, so that equal scores must be distinguished by their place alone."""
    maps, embeddings = drawn(seed, [stored, *counts], hidden)
    if twins:
        same = np.arange(len(maps)) // 2
        maps, embeddings = maps[same], None if embeddings is None else embeddings[same]
    rest = None if embeddings is None else embeddings[stored:]
    groups = []
    while sum(groups) < len(counts):
        groups.append(data.draw(st.integers(1, len(counts) - sum(groups))))
    answers = [
        learned(filled(maps, embeddings, stored, stored + room, 2), maps[stored:], rest, counts, some)
        for some in (groups, [1] * len(counts))
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("hidden", [None, 64])
def test_many_records_of_an_iteration_are_searched_in_parts(hidden):
    """More than fit into a block: as in one part."""
    maps, embeddings = drawn(0, [50, 3 * BLOCK_ROWS + 5], hidden)
    rest = None if embeddings is None else embeddings[50:]
    answers = []
    for rows in (BLOCK_ROWS, 1000):
        store = filled(maps, embeddings, 50, 70, 2)
        store._block_rows = rows
        answers.append(learned(store, maps[50:], rest, [len(maps) - 50], [1]))
    assert answers[0] == answers[1]


def test_a_block_takes_as_many_iterations_as_fit():
    store = ExpertMapStore(1, 2, capacity=3, prefetch_distance=1)
    assert store.together([1] * 64) == BLOCK_ROWS
    assert store.together([BLOCK_ROWS - 1, 1, 1]) == 2
    assert store.together([BLOCK_ROWS + 1, 1]) == 1
    assert store.together([1]) == 1


@pytest.mark.parametrize("length", [8, 32, 60, 64, 1000, 4096])
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("columns", [1, 100, 1000])
def test_products_on_the_grid_are_exact_whatever_their_shape(length, rows, columns):
    """`fsum` rounds once; the products themselves are exact. Of many columns, some are drawn and then repeated."""
    rng = np.random.default_rng(length)
    drawn = rows + min(columns, 41)
    for grid, vectors in [
        (MAP_GRID, rng.dirichlet(np.full(length, 0.3), size=drawn)),
        (UNIT_GRID, unit(rng.normal(size=(drawn, length)))),
    ]:
        exact = on_grid(vectors, grid)
        others = np.resize(exact[rows:], (columns, length))
        products = exact[:rows] @ np.ascontiguousarray(others.T)
        for row, column in [(0, 0), (rows - 1, columns - 1), (rows // 2, columns // 2)]:
            assert products[row, column] == math.fsum(exact[row] * others[column])


def test_the_grid_moves_no_number_by_more_than_half_a_step():
    values = np.random.default_rng(0).random(1000).astype(np.float32)
    assert np.abs(on_grid(values, MAP_GRID) - values).max() <= 0.5 / MAP_GRID
    np.testing.assert_array_equal(on_grid(values.astype(np.float16), 2.0**24), values.astype(np.float16))

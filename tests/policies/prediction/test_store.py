"""The expert-map store against its equations, computed the slow way."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UserError
from policies.prediction.cosine import nearest
from policies.prediction.expert_map_store import ExpertMapStore
from policies.prediction.past_records import sample

LAYERS, EXPERTS, HIDDEN = 3, 4, 5


def cosine(a, b):
    a, b = np.ravel(a).astype(float), np.ravel(b).astype(float)
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def maps_of(rng, rows, layers=LAYERS, experts=EXPERTS):
    return rng.dirichlet(np.full(experts, 0.5), size=(rows, layers)).astype(np.float32)


def filled(rng, rows, *, capacity=None, hidden=None, distance=1):
    store = ExpertMapStore(LAYERS, EXPERTS, capacity=capacity or rows, prefetch_distance=distance, hidden=hidden)
    maps = maps_of(rng, rows)
    embeddings = None if hidden is None else rng.normal(size=(rows, hidden)).astype(np.float32)
    store.add(maps, embeddings)
    return store, maps, embeddings


def searched(store, query):
    """A block in which each record is an iteration, and nothing is learned."""
    return store.block(query, None, range(len(query)), learn=False)


def answers(store, query):
    block = searched(store, query)
    return block.index, block.score


@pytest.mark.parametrize("hidden", [None, HIDDEN])
@pytest.mark.parametrize("rows", [1, 6, 9])
def test_a_restored_store_finds_and_learns_as_the_one_before(rows, hidden):
    """Capacity 6: one that is nearly empty, one that is full, one that has replaced entries."""
    rng = np.random.default_rng(rows)
    one, _, _ = filled(rng, rows, capacity=6, hidden=hidden)
    kept = one.arrays()
    for array in kept.values():
        array.flags.writeable = False
    other = ExpertMapStore(LAYERS, EXPERTS, capacity=6, prefetch_distance=1, hidden=hidden)
    other.restore(kept)
    more = maps_of(rng, 8)
    vectors = None if hidden is None else rng.normal(size=(8, hidden)).astype(np.float32)
    found = []
    for store in (one, other):
        before = [*answers(store, more), *([] if hidden is None else [store.nearness(vectors)])]
        store.add(more, vectors)
        found.append([*before, *answers(store, more), *store.arrays().values()])
    assert one.count == other.count
    for mine, others in zip(*found, strict=True):
        np.testing.assert_array_equal(mine, others)


def test_trajectory_search_is_the_cosine_of_flattened_prefixes_eq_5():
    rng = np.random.default_rng(1)
    store, maps, _ = filled(rng, 20)
    query = maps_of(rng, 4)
    search = store.trajectory(4)
    for layer in range(LAYERS):
        search.extend(query[:, layer])
        expected = [[cosine(q[: layer + 1], m[: layer + 1]) for m in maps] for q in query]
        np.testing.assert_allclose(search.scores(), expected, atol=1e-6)
        found = search.best()
        assert found.index.tolist() == np.argmax(expected, axis=1).tolist()
        np.testing.assert_allclose(found.score, np.max(expected, axis=1), atol=1e-6)


def test_block_search_equals_incremental_search():
    rng = np.random.default_rng(2)
    store, _, _ = filled(rng, 30)
    query = maps_of(rng, 7)
    block = searched(store, query)
    search = store.trajectory(7)
    for layer in range(LAYERS):
        search.extend(query[:, layer])
        assert search.best().index.tolist() == block.index[:, layer].tolist()
        np.testing.assert_allclose(search.best().score, block.score[:, layer], atol=1e-6)


def test_block_search_sees_nothing_of_later_layers():
    rng = np.random.default_rng(3)
    store, _, _ = filled(rng, 30)
    query = maps_of(rng, 2)
    other = query.copy()
    other[:, 2:] = maps_of(rng, 2)[:, 2:]
    one, two = searched(store, query), searched(store, other)
    assert one.index[:, :2].tolist() == two.index[:, :2].tolist()
    assert one.score[:, :2].tolist() == two.score[:, :2].tolist()


def test_semantic_search_is_the_cosine_of_embeddings_eq_4():
    rng = np.random.default_rng(4)
    store, _, embeddings = filled(rng, 12, hidden=HIDDEN)
    query = rng.normal(size=(3, HIDDEN))
    expected = [[cosine(q, e) for e in embeddings] for q in query]
    found = nearest(store.nearness(query))
    assert found.index.tolist() == np.argmax(expected, axis=1).tolist()
    np.testing.assert_allclose(found.score, np.max(expected, axis=1), atol=1e-6)


def test_among_equal_scores_the_lowest_index_wins():
    store = ExpertMapStore(1, 2, capacity=3, prefetch_distance=1, hidden=1)
    store.add(np.full((3, 1, 2), 0.5, np.float32), np.ones((3, 1), np.float32))
    assert nearest(store.nearness(np.ones((1, 1)))).index.tolist() == [0]
    assert searched(store, np.full((1, 1, 2), 0.5, np.float32)).index.tolist() == [[0]]


def test_redundancy_replacement_worked_by_hand_eq_9():
    """L = 2, d = 1: redundancy = ½ · semantic + ½ · trajectory.

    The new entry (1, 0 | 1, 0) with embedding (1, 0) compares with
      entry 0: the same map, trajectory 1; embedding (0, 1), semantic 0: ½
      entry 1: map (1, 0 | 0, 1), trajectory ½; embedding (1, 0), semantic 1: ¾  <- replaced
      entry 2: map (0, 1 | 0, 1), trajectory 0; embedding (0, 1), semantic 0: 0
    By trajectory alone, without embeddings, entry 0 would go.
    """
    maps = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 1]], [[0, 1], [0, 1]]], np.float32)
    embeddings = np.array([[0, 1], [1, 0], [0, 1]], np.float32)
    new = maps[:1].copy()

    store = ExpertMapStore(2, 2, capacity=3, prefetch_distance=1, hidden=2)
    store.add(maps, embeddings)
    store.add(new, np.array([[1, 0]], np.float32))
    assert store.maps(np.array([1]), np.arange(2)[:, None]).reshape(2, 2).tolist() == new[0].tolist()
    assert store.maps(np.array([0]), np.arange(2)[:, None]).reshape(2, 2).tolist() == maps[0].tolist()

    plain = ExpertMapStore(2, 2, capacity=3, prefetch_distance=1)
    plain.add(maps[[1, 0, 2]], None)
    plain.add(new, None)
    assert searched(plain, new).index[0, 1] == 1
    assert plain.count == 3


@given(
    rows=st.integers(1, 12), capacity=st.integers(1, 8), hidden=st.sampled_from([None, HIDDEN]), seed=st.integers(0, 99)
)
def test_adding_many_is_adding_one_after_the_other(rows, capacity, hidden, seed):
    rng = np.random.default_rng(seed)
    maps = maps_of(rng, rows)
    embeddings = None if hidden is None else rng.normal(size=(rows, hidden)).astype(np.float32)
    stores = [ExpertMapStore(LAYERS, EXPERTS, capacity=capacity, prefetch_distance=2, hidden=hidden) for _ in range(2)]
    stores[0].add(maps, embeddings)
    for row in range(rows):
        stores[1].add(maps[row : row + 1], None if embeddings is None else embeddings[row : row + 1])
    assert stores[0].count == stores[1].count == min(rows, capacity)
    index = np.arange(stores[0].count)[:, None]
    np.testing.assert_array_equal(*(store.maps(index, np.arange(LAYERS)) for store in stores))


def test_similarities_handed_over_decide_like_ones_computed_anew():
    rng = np.random.default_rng(5)
    one, maps, embeddings = filled(rng, 6, hidden=HIDDEN)
    two = ExpertMapStore(LAYERS, EXPERTS, capacity=6, prefetch_distance=1, hidden=HIDDEN)
    two.add(maps, embeddings)
    new, vectors = maps_of(rng, 3), rng.normal(size=(3, HIDDEN)).astype(np.float32)
    one.add(new, vectors)
    search = two.trajectory(3)
    for layer in range(LAYERS):
        search.extend(new[:, layer])
    two.add(new, vectors, search.scores(), two.nearness(vectors))
    index = np.arange(6)[:, None]
    np.testing.assert_array_equal(*(store.maps(index, np.arange(LAYERS)) for store in (one, two)))


def test_memory_is_that_of_maps_and_embeddings_in_float32_fig_18():
    store = ExpertMapStore(24, 60, capacity=1000, prefetch_distance=6, hidden=2048)
    assert store.nbytes == 1000 * (24 * 60 + 2048) * 4


def test_an_entry_without_its_embedding_is_an_error():
    store = ExpertMapStore(1, 2, capacity=2, prefetch_distance=1, hidden=3)
    with pytest.raises(UserError, match="a new one has none"):
        store.add(np.ones((1, 1, 2), np.float32), None)


def test_a_sample_contains_each_record_equally_often():
    """2 of 5 records, 5,000 draws: each is expected in 40 % of them, standard error 0.7 %."""
    rng = np.random.default_rng(0)
    records = np.arange(5, dtype=np.float32).reshape(5, 1, 1)
    seen = np.zeros(5)
    for _ in range(5000):
        parts = [(records[:1], None), (records[1:4], None), (records[4:], None)]
        ((maps, embeddings),) = sample(parts, 2, rng)
        assert embeddings is None
        assert len(set(maps.ravel())) == 2
        seen[maps.ravel().astype(int)] += 1
    np.testing.assert_allclose(seen / 5000, 0.4, atol=0.03)


def test_a_sample_keeps_maps_with_their_embeddings():
    rng = np.random.default_rng(1)
    numbers = np.arange(50, dtype=np.float32)
    ((maps, embeddings),) = sample([(numbers.reshape(50, 1, 1), numbers.reshape(50, 1) * 2)], 10, rng)
    assert (maps.ravel() * 2).tolist() == embeddings.ravel().tolist()
    assert sample([], 10, rng) == []

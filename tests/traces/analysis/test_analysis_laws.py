"""Entropy, overlap, load and similarity: worked examples and laws."""

import math

import numpy as np
import pandas as pd
import pytest

from tests.support.trace_helpers import random_request, small_meta
from traces.analysis.entropy import Entropies, entropy_bits, heat_map, running_entropy_bits
from traces.analysis.iterations import Iterations, iterations_of, ratio, shares
from traces.analysis.popularity import Popularity, gini, overlap
from traces.analysis.similarity import (
    Sample,
    Sampler,
    binned,
    correlation,
    cosines,
    coverage,
    draw,
    overlaps,
    pairs,
    pearson,
    theory,
)


def one_hot(*experts: int, count: int = 4) -> np.ndarray:
    """`[I, 1, J]`: one layer whose iterations are sure of one expert each."""
    return np.eye(count)[list(experts)][:, None]


def request_of(maps: np.ndarray, request: int = 0, prefill: bool = False) -> Iterations:
    demands = maps > 0
    return Iterations(
        request=request, prefill=prefill, maps=maps, demands=demands, tokens=demands.sum(axis=0), embeddings=None
    )


def sample_of(maps: np.ndarray, embeddings: np.ndarray | None = None) -> Sample:
    count = np.arange(len(maps))
    return Sample(request=count, iteration=count, maps=maps.astype(np.float32), demands=maps > 0, embeddings=embeddings)


# ---- iterations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefill", [True, False])
def test_an_iteration_is_the_mean_of_its_tokens_gates_and_the_union_of_their_experts(prefill: bool) -> None:
    meta = small_meta(prefill=prefill)
    _, recorded = random_request(1, meta)
    found = iterations_of(recorded, prefill)
    assert found.first == recorded.iteration[0]
    for step, number in enumerate(np.unique(recorded.iteration)):
        rows = recorded.iteration == number
        mean = recorded.gate[rows].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(found.maps[step], mean / mean.sum(axis=1, keepdims=True))
        for layer in range(meta.shape.layers):
            executed = set(recorded.experts[rows, layer].ravel().tolist())
            assert set(np.flatnonzero(found.demands[step, layer]).tolist()) == executed
        np.testing.assert_allclose(found.embeddings[step], recorded.embedding[rows].astype(np.float64).mean(axis=0))
    assert found.tokens.sum(axis=1).tolist() == [recorded.experts[:, 0].size] * meta.shape.layers


def test_shares_and_ratios_of_nothing() -> None:
    assert shares(np.array([[1, 3], [0, 0]])).tolist() == [[0.25, 0.75], [0.0, 0.0]]
    np.testing.assert_array_equal(ratio(np.array([1, 0]), np.array([2, 0])), [0.5, np.nan])


# ---- entropy ---------------------------------------------------------------------------------------------------------


def test_entropy_of_equal_chances_is_log2_of_their_number() -> None:
    for experts in (1, 2, 8, 60):
        assert entropy_bits(np.full(experts, 1 / experts)) == pytest.approx(math.log2(experts))


def test_entropy_of_certainty_is_zero_and_of_a_half_and_two_quarters_one_and_a_half() -> None:
    # ½·1 + ¼·2 + ¼·2 = 1.5
    assert entropy_bits(np.array([[0, 1, 0, 0], [0.5, 0, 0.25, 0.25]])).tolist() == [0, 1.5]


def test_entropy_of_the_mean_is_at_least_the_mean_entropy() -> None:
    maps = np.random.default_rng(0).dirichlet(np.full(6, 0.3), size=(20, 3))
    assert (entropy_bits(maps.mean(axis=0)) >= entropy_bits(maps).mean(axis=0)).all()
    np.testing.assert_allclose(running_entropy_bits(maps)[-1], entropy_bits(maps.mean(axis=0)))


def test_fine_coarse_and_running_entropy_worked_out_by_hand() -> None:
    # Two requests of one layer. The first is sure of 0, then of 1: fine 0; coarse (½, ½) = 1 bit. The second is sure
    # of 0 once: 0 and 0. So fine 0, coarse ½; after one iteration (0 + 0) / 2, after two 1 / 1.
    entropies = Entropies(1, 4)
    entropies.add(request_of(one_hot(0, 1)))
    entropies.add(request_of(one_hot(0)))
    (row,) = entropies.per_layer().to_dict("records")
    assert row == {
        "layer": 0,
        "fine_bits": 0,
        "fine_decode_bits": 0,
        "coarse_bits": 0.5,
        "coarse_counts_bits": 0.5,
        "uniform_bits": 2,
    }
    assert entropies.through_iterations().to_dict("list") == {
        "since": ["decode"] * 2,
        "iterations": [1, 2],
        "layer": [0, 0],
        "entropy_bits": [0, 1],
        "requests": [2, 1],
    }


def test_running_entropy_restarts_after_the_prefill() -> None:
    # The prefill's map (½, ½): 1 bit; with a sure 0 added (¾, ¼): 0.811. Of the decode steps alone: 0.
    entropies = Entropies(1, 2)
    entropies.add(request_of(np.array([[[0.5, 0.5]], [[1, 0]]]), prefill=True))
    table = entropies.through_iterations()
    assert table["since"].tolist() == ["decode", "prefill", "prefill"]
    assert table["entropy_bits"].tolist() == pytest.approx([0, 1, 0.811278])
    (row,) = entropies.per_layer().to_dict("records")
    assert (row["fine_bits"], row["fine_decode_bits"]) == (0.5, 0)


def test_a_heat_map_has_the_mean_of_the_request_and_three_iterations() -> None:
    table = heat_map(request_of(one_hot(0, 1, 1, 3), request=5))
    coarse = table[table["iteration"].isna()]
    assert coarse["probability"].tolist() == coarse["executed_share"].tolist() == [0.25, 0.5, 0, 0.25]
    assert table["iteration"].dropna().unique().tolist() == [1, 2, 4]  # without a prefill they count from 1
    assert set(table["request"]) == {5}
    with_prefill = heat_map(request_of(one_hot(0, 1, 1, 3), prefill=True))
    assert with_prefill["iteration"].dropna().unique().tolist() == [1, 2, 3]


# ---- overlap and load ------------------------------------------------------------------------------------------------


def test_overlap_of_a_repeated_iteration_is_one() -> None:
    used = np.random.default_rng(1).random((1, 3, 8)) < 0.5
    used[..., 0] = True
    assert (overlap(np.repeat(used, 4, axis=0)) == 1).all()


def test_overlap_is_the_share_of_the_later_iterations_experts() -> None:
    # {0, 1, 2} then {1, 3}: one of two; then {0}: none of one.
    used = np.zeros((3, 1, 4), bool)
    used[0, 0, [0, 1, 2]] = used[1, 0, [1, 3]] = used[2, 0, 0] = True
    assert overlap(used).tolist() == [[0.5], [0.0]]


def test_overlap_with_the_prefill_is_a_separate_column() -> None:
    maps = np.concatenate([np.full((1, 1, 4), 0.25), one_hot(2, 2, 3)])
    popularity = Popularity(1, 4)
    popularity.add(request_of(maps, prefill=True))
    (row,) = popularity.overlaps().to_dict("records")
    assert (row["overlap"], row["overlap_after_prefill"], row["pairs"]) == (0.5, 1.0, 2)


def test_balance_worked_out_by_hand() -> None:
    # Loads 3, 1, 0, 0: mean 1; max/mean 3; deviation √((4 + 0 + 1 + 1) / 4) = 1.2247;
    # Gini: sorted 0 0 1 3, Σ (2i − 5)·x = 1·1 + 3·3 = 10, over 4 · 4 = 0.625.
    popularity = Popularity(1, 4)
    popularity.add(request_of(one_hot(0, 0, 1, 0)))
    (row,) = popularity.balance().to_dict("records")
    assert row["max_over_mean"] == 3
    assert row["min_over_mean"] == 0
    assert row["coefficient_of_variation"] == pytest.approx(math.sqrt(1.5))
    assert row["gini"] == 0.625
    assert row["unused_experts"] == 2
    assert popularity.experts()["tokens"].tolist() == [3, 1, 0, 0]


def test_gini_is_zero_for_equal_loads_and_one_less_a_jth_for_a_single_one() -> None:
    assert gini(np.full(5, 7)) == 0
    assert gini(np.array([0, 0, 0, 9])) == 0.75


# ---- similarity ------------------------------------------------------------------------------------------------------


def test_pearson_of_a_line_is_one_or_minus_one() -> None:
    x = np.random.default_rng(2).random(50)
    assert pearson(x, 3 * x + 1) == pytest.approx(1)
    assert pearson(x, -x) == pytest.approx(-1)
    assert pearson(x, np.ones(50)) is None
    assert pearson([1, 2], [1, 2]) is None


def test_pearson_is_that_of_numpy() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.random(30), rng.random(30)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_cosines_and_overlaps_worked_out_by_hand() -> None:
    # (3, 4) and (4, 3): 24 / 25. Of {0, 1} the stored {1} has one of two; of {1} the stored {0, 1} has all.
    assert cosines(np.array([[3.0, 4.0]]), np.array([[4.0, 3.0], [0.0, 0.0]])).ravel() == pytest.approx([0.96, 0])
    both, second = np.array([[[True, True]]]), np.array([[[False, True]]])
    assert (overlaps(both, second), overlaps(second, both)) == (0.5, 1)


def test_a_draw_takes_every_iteration_at_most_once_and_all_when_there_are_few() -> None:
    lengths = {7: 5, 3: 1, 9: 4}
    all_but_prefills = draw(lengths, 100, np.random.default_rng(0), skip=1)
    assert {request: picked.tolist() for request, picked in all_but_prefills.items()} == {7: [1, 2, 3, 4], 9: [1, 2, 3]}
    some = draw(lengths, 6, np.random.default_rng(0))
    assert sum(map(len, some.values())) == 6
    assert all(len(set(picked.tolist())) == len(picked) and picked.max() < lengths[one] for one, picked in some.items())
    assert draw({}, 3, np.random.default_rng(0)) == {}


def test_a_sampler_keeps_what_was_drawn() -> None:
    sampler = Sampler({1: np.array([0, 2]), 4: np.array([1])})
    for request in (1, 2, 4):
        sampler.add(request_of(one_hot(0, 1, 2), request=request))
    sample = sampler.sample(np.random.default_rng(0))
    found = sorted(
        zip(sample.request.tolist(), sample.iteration.tolist(), sample.maps.argmax(axis=2)[:, 0].tolist(), strict=True)
    )
    assert found == [(1, 1, 0), (1, 3, 2), (4, 2, 1)]
    assert Sampler({}).sample(np.random.default_rng(0)) is None


def test_pairs_are_all_tests_with_all_stored_and_the_nearest_is_marked() -> None:
    # Two layers, so `ahead` compares the first and counts the second.
    stored = np.stack([one_hot(0, 1)[:, 0], one_hot(2, 1)[:, 0]])
    test = np.stack([one_hot(0, 3)[:, 0]])
    table = pairs(sample_of(test), sample_of(stored)).set_index("similarity")
    assert table.loc["trajectory", "score"].tolist() == pytest.approx([0.5, 0])
    assert table.loc["trajectory", "overlap"].tolist() == [0.5, 0]
    assert table.loc["ahead", "score"].tolist() == [1, 0]
    assert table.loc["ahead", "overlap"].tolist() == [0, 0]
    assert table["nearest"].tolist() == [True, False] * 2
    assert "semantic" not in table.index


def test_bins_are_equally_wide_and_count_every_pair() -> None:
    scores = np.array([0.0, 0.01, 0.5, 1.0])  # twenty bins of 0.05: the first two share the lowest
    found = pd.DataFrame({"score": scores, "overlap": [0.2, 0.4, 0.5, 1.0], "nearest": False})
    bins = binned(found)
    assert bins["bin"].tolist() == [0, 10, 19]
    assert bins["pairs"].tolist() == [2, 1, 1]
    assert bins["overlap"].tolist() == pytest.approx([0.3, 0.5, 1.0])
    assert bins["overlap_std"].tolist() == pytest.approx([0.1, 0, 0])


def test_correlations_of_a_perfect_line_are_one_in_every_grain() -> None:
    scores = np.linspace(0, 1, 1000)
    found = pd.DataFrame({"score": scores, "overlap": scores / 2, "nearest": np.arange(1000) % 10 == 0})
    row = correlation(found, binned(found))
    assert [row[f"pearson_{grain}"] for grain in ("pairs", "bins", "nearest")] == pytest.approx([1, 1, 1])
    assert (row["pairs"], row["bins"], row["test_iterations"]) == (1000, 20, 100)


# ---- coverage --------------------------------------------------------------------------------------------------------


def test_the_theorys_sizes_are_those_of_the_paper() -> None:
    # L·J = 32 · 8 = 256: 2LJ = 512; ½ · 256 · ln 256 = 128 · 5.545 = 709.8
    assert theory(32, 8) == {0.75: 512, 0.98: 710}
    assert theory(1, 55) == {0.75: 110, 0.98: 110}  # near e⁴ they are equal, below it the second is the smaller


def test_coverage_of_a_store_that_has_the_very_maps_is_one_and_never_falls() -> None:
    rng = np.random.default_rng(4)
    stored = rng.dirichlet(np.ones(5), size=(100, 2))
    table = coverage(sample_of(stored[-10:]), sample_of(stored), theory(2, 5))
    # 2LJ = 20, ½ · 10 · ln 10 = 11.5 → 12
    assert table["asked_maps"].tolist() == [12, 16, 20]
    np.testing.assert_array_equal(table["theory"], [0.98, np.nan, 0.75])
    assert (table["similarity_mean"].diff().dropna() >= 0).all()
    whole = coverage(sample_of(stored[-10:]), sample_of(stored), {0.75: 500})
    assert whole["asked_maps"].tolist() == [16, 32, 64, 500]
    assert whole["maps"].tolist() == [16, 32, 64, 100]  # capped by what the history has
    assert whole["similarity_mean"].iloc[-1] == pytest.approx(1)

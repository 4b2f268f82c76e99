"""The synthetic model reaches the requested statistics, moves each without the others, and obeys laws at its limits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.slow_cases import slow_but
from tests.support.synthetic_helpers import (
    ASKED,
    EXPERTS,
    LAYERS,
    SHAPE,
    TOP_K,
    by_hand,
    calibrated,
    drawn,
    parameters,
    statistics,
)
from traces.analysis.analysis_settings import AnalysisSettings
from traces.analysis.trace_analysis import analyse
from traces.format.checks import check
from traces.format.reader import Trace
from traces.synthetic.coefficients import calibrate, solve
from traces.synthetic.state_space import Patterns, SyntheticModel, first_patterns, token_patterns

TOLERANCE = 0.02  # of the mean over layers; of a single layer three times that: these are samples of few requests
BITS = np.log2(EXPERTS)  # entropy is taken as a share of it
SHORTEST = 2  # iterations of the requests in which `calibrate` searches, where no test looks at what it finds
UNSHARED = {"request_overlap": 0.27, "cluster_overlap": 0.27, "token_overlap": 0.27, "load_cv": 0.3}  # only popularity


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return drawn(
        tmp_path_factory.mktemp("synthetic") / "a.trace", parameters(), 120, output=60, calibration=calibrated()
    )


@pytest.fixture(scope="module")
def tables(trace: Trace) -> dict[str, Any]:
    """Those of the project's analysis."""
    return analyse(trace, AnalysisSettings(sample=300)).tables


def assert_comes_out(found: Any, asked: Any) -> None:
    assert np.mean(found) == pytest.approx(np.mean(asked), abs=TOLERANCE)
    np.testing.assert_allclose(found, np.broadcast_to(asked, np.shape(found)), atol=3 * TOLERANCE)


def test_each_statistic_computed_by_hand_is_as_requested(trace: Trace) -> None:
    found = by_hand(trace)
    assert found.keys() == ASKED.keys()
    for name, asked in ASKED.items():
        scale = BITS if name == "entropy_bits" else 1
        assert_comes_out(found[name] / scale, asked / scale)


def test_the_projects_analysis_measures_them_as_requested(tables: dict[str, Any]) -> None:
    assert_comes_out(tables["entropy"]["fine_decode_bits"] / BITS, ASKED["entropy_bits"] / BITS)
    assert_comes_out(tables["overlap"]["overlap"], ASKED["overlap"])
    assert_comes_out(tables["balance"]["coefficient_of_variation"], ASKED["load_cv"])


def test_layers_may_differ(tmp_path: Path) -> None:
    overlap, bits = np.linspace(0.5, 0.9, LAYERS), np.linspace(0.5, 2.5, LAYERS)
    wanted = parameters(overlap=overlap, entropy_bits=bits, token_overlap=0.4)
    found = by_hand(drawn(tmp_path / "a.trace", wanted, 40))
    assert_comes_out(found["overlap"], overlap)
    assert_comes_out(found["entropy_bits"] / BITS, bits / BITS)


@pytest.mark.parametrize(
    ("name", "value"),
    slow_but(
        [
            ("entropy_bits", 0.6),
            ("overlap", 0.58),
            ("request_overlap", 0.40),
            ("cluster_overlap", 0.42),
            ("token_overlap", 0.40),
            ("load_cv", 0.2),
        ],
        ("overlap", 0.58),
        ("cluster_overlap", 0.42),
    ),
)
def test_one_statistic_changes_and_the_others_stay(name: str, value: float) -> None:
    before, after = (one.expected.mean() for one in (calibrated(), calibrate(parameters(**{name: value}), SHORTEST)))
    assert after.pop(name) == pytest.approx(value, abs=0.005)
    assert abs(before.pop(name) - value) > 0.05 - 0.005
    assert after == pytest.approx(before, abs=0.005)


def test_the_row_is_legal_and_the_experts_are_the_largest_gates(trace: Trace) -> None:
    assert check(trace.path) == []
    for one in trace.iter(trace.request_ids[:3]):
        chosen = np.take_along_axis(one.gate, one.experts.astype(int), axis=2).astype(float)
        assert (np.diff(chosen, axis=2) <= 0).all()
        smallest = np.sort(one.gate, axis=2)[:, :, -TOP_K].astype(float)
        np.testing.assert_array_equal(chosen.min(axis=2), smallest)


def test_entropy_nought_is_one_expert_and_the_most_is_all_alike(tmp_path: Path) -> None:
    few = {"shape": replace(SHAPE, layers=2)}
    sharp, flat = (
        np.concatenate([one.gate for one in drawn(tmp_path / f"{bits}.trace", wanted, 4).iter()])
        for bits in (0.0, 3.0)
        for wanted in (parameters(few, entropy_bits=bits),)
    )
    assert (sharp.max(axis=2) > 0.99).mean() > 0.99
    np.testing.assert_allclose(flat.astype(float), 1 / EXPERTS, atol=0.01)


def test_overlap_one_executes_the_same_experts_through_a_request(tmp_path: Path) -> None:
    trace = drawn(tmp_path / "a.trace", parameters(overlap=1.0), 6)
    for one in trace.iter():
        assert (np.sort(one.experts, axis=2) == np.sort(one.experts[0], axis=1)).all()
    first = [set(one.experts[0, 0].tolist()) for one in trace.iter()]
    assert any(one != first[0] for one in first)


@pytest.mark.parametrize("overlap", slow_but([0.28, 0.36], 0.28))
def test_neighbours_may_have_less_in_common_than_any_others(tmp_path: Path, overlap: float) -> None:
    found = by_hand(drawn(tmp_path / "a.trace", parameters(overlap=overlap, token_overlap=0.37), 40))
    assert np.mean(found["overlap"]) == pytest.approx(overlap, abs=TOLERANCE)
    assert np.mean(found["request_overlap"]) == pytest.approx(ASKED["request_overlap"], abs=TOLERANCE)


def ahead(trace: Trace) -> dict[str, Any]:
    """How a search by the first half of the layers does in the second."""
    table = analyse(trace, AnalysisSettings(sample=300)).tables["similarity"]
    found: dict[str, Any] = table.query("phase == 'decode' and similarity == 'ahead'").iloc[0].to_dict()
    return found


def test_without_clusters_tokens_and_requests_a_search_finds_no_more_than_popularity(tmp_path: Path) -> None:
    found = ahead(drawn(tmp_path / "a.trace", parameters({"clusters": 1}, overlap=0.27, **UNSHARED), 40, output=60))
    assert found["nearest_overlap"] == pytest.approx(found["mean_overlap"], abs=0.03)
    assert abs(found["pearson_pairs"]) < 0.05


@pytest.mark.parametrize("closeness", [(0.3, 0.9), pytest.param((0.3, 0.5, 0.7, 0.9), marks=pytest.mark.slow)])
def test_the_closer_the_clusters_are_the_more_a_search_finds(tmp_path: Path, closeness: tuple[float, ...]) -> None:
    found = []
    for close in closeness:
        levels = dict.fromkeys(("overlap", "request_overlap", "cluster_overlap", "token_overlap"), close)
        wanted = parameters({"clusters": 8, "shape": replace(SHAPE, layers=6)}, **levels, load_cv=0.2)
        trace = drawn(tmp_path / f"{close}.trace", wanted, 32, output=30)
        found.append(ahead(trace)["nearest_overlap"])
    assert found == sorted(found)
    assert found[0] < 0.4
    assert found[-1] > 0.8


def test_embeddings_of_a_cluster_are_alike_and_search_by_them_finds_it(tables: dict[str, Any]) -> None:
    model = SyntheticModel(parameters(), calibrated().coefficients, 60)
    unit = model.vectors(np.arange(256)).astype(float)
    cosine = unit @ unit.T / np.outer(*[np.sqrt((unit**2).sum(axis=1))] * 2)
    cluster = np.arange(len(unit)) % 4
    same = (cluster[:, None] == cluster) & ~np.eye(len(unit), dtype=bool)
    assert cosine[same].mean() == pytest.approx(0.6, abs=0.03)
    assert abs(cosine[cluster[:, None] != cluster].mean()) < 0.2  # four centres in 16 dimensions
    found = tables["similarity"].query("phase == 'decode' and similarity == 'semantic'").iloc[0]
    assert found["nearest_overlap"] > found["mean_overlap"] + 0.07  # of its cluster, seldom its token
    assert found["pearson_pairs"] > 0.2


def test_topics_change_as_often_as_asked_and_prompts_have_one(tmp_path: Path) -> None:
    trace = drawn(tmp_path / "a.trace", parameters({"topic_change": 0.2}, token_overlap=0.5), output=60)
    topics = [(one.token % 4, one.iteration) for one in trace.iter()]
    assert all((topic[iteration == 0] == topic[0]).all() for topic, iteration in topics)
    changes = np.concatenate([np.diff(topic)[(iteration == 0).sum() - 1 :] != 0 for topic, iteration in topics])
    assert changes.mean() == pytest.approx(0.2, abs=0.02)
    assert np.mean(by_hand(trace)["overlap"]) == pytest.approx(ASKED["overlap"], abs=TOLERANCE)


def test_drift_turns_the_patterns_away_from_the_first_requests(tmp_path: Path) -> None:
    levels = {"overlap": 0.8, "request_overlap": 0.8, "cluster_overlap": 0.8, "token_overlap": 0.8}
    more = {"drift": 1.0, "clusters": 1, "shape": replace(SHAPE, layers=12)}
    trace = drawn(tmp_path / "a.trace", parameters(more, **(levels | {"load_cv": 1.4})), 60, output=20)
    load = [trace.demands(request)[1:].mean(axis=0) for request in trace.request_ids]
    likeness = [float((load[0] * one).sum() / TOP_K / 12) for one in load]
    assert np.mean(likeness[1:10]) > np.mean(likeness[25:35]) > np.mean(likeness[50:])
    assert np.mean(likeness[50:]) == pytest.approx(TOP_K / EXPERTS, abs=0.12)


def test_patterns_turn_by_the_correlation_that_is_asked() -> None:
    one, other = (Patterns(SHAPE, 4, np.random.default_rng(seed)) for seed in (0, 1))
    for name in ("popularity", "clusters"):
        assert np.array_equal(getattr(one.turned(other, 1.0), name), getattr(one, name))
        assert np.array_equal(getattr(one.turned(other, 0.0), name), getattr(other, name))
    assert np.abs(one.clusters.sum(axis=0)).max() < 1e-5  # clusters leave the load as it is
    np.testing.assert_allclose(one.popularity.std(axis=1), 1, rtol=1e-6)


def test_lookahead_ranks_as_many_executed_experts_first_as_asked(tmp_path: Path) -> None:
    trace = drawn(tmp_path / "a.trace", parameters({"lookahead": {1: 0.9, 2: 0.6}}), 20)
    assert check(trace.path) == []
    for distance, recall in {1: 0.9, 2: 0.6}.items():
        shared = []
        for one in trace.iter():
            ranked = np.argsort(-one.lookahead[distance].astype(float), axis=2)[:, :-distance, :TOP_K]
            executed = one.experts[:, distance:]
            shared.append((ranked[..., None] == executed[..., None, :]).any(axis=3).mean())
            assert not one.lookahead[distance][:, -distance:].any()
        assert np.mean(shared) == pytest.approx(recall, abs=TOLERANCE)


def test_incomplete_gates_have_the_entropy_of_the_executed_experts(tmp_path: Path) -> None:
    trace = drawn(tmp_path / "a.trace", parameters({"gate_complete": False}, entropy_bits=0.8), 20)
    assert check(trace.path) == []
    assert np.mean(by_hand(trace)["entropy_bits"]) == pytest.approx(0.8, abs=TOLERANCE)
    assert all((one.gate > 0).sum(axis=2).max() == TOP_K for one in trace.iter())


def test_a_request_depends_on_its_number_alone() -> None:
    wanted, known = parameters(), calibrated().coefficients
    one = SyntheticModel(wanted, known, 60).request(7, 3, 5)
    model = SyntheticModel(wanted, known, 10)
    model.request(2, 8, 8)
    other = model.request(7, 3, 5)
    assert one.gate.tobytes() == other.gate.tobytes()
    assert one.token.tolist() == other.token.tolist()


@pytest.mark.parametrize("similarity", [0, 1])
def test_each_seed_has_its_own_patterns_and_embeddings(similarity: float) -> None:
    """With similarity 0 an embedding is the token's own, with 1 that of its cluster."""
    known = calibrated().coefficients
    one, other = (parameters({"seed": seed, "token_similarity": similarity}) for seed in (1, 2))
    assert not np.isclose(token_patterns(one)(5), token_patterns(other)(5)).any()
    for name in ("popularity", "clusters"):
        assert not np.array_equal(getattr(first_patterns(one), name), getattr(first_patterns(other), name))
    tokens = np.arange(5)
    vectors = [SyntheticModel(each, known, 1).vectors(tokens) for each in (one, other)]
    assert (np.abs(np.vecdot(*vectors)) < 0.99).all()


def test_coefficients_keep_their_order_whatever_is_asked() -> None:
    rng, shape = np.random.default_rng(2), replace(SHAPE, layers=24)
    ends = {"load_cv": (0, 1.7), "entropy_bits": (0, 3)}
    asked = {name: rng.uniform(*ends.get(name, (0.25, 1)), 24) for name in ASKED}
    for name in asked:
        asked[name][:6] = rng.choice([*ends.get(name, (0.25, 1))], 6)  # and at the ends
    found = calibrate(parameters({"shape": shape}, **asked), SHORTEST).coefficients
    shares = np.stack([found.popularity, found.cluster, found.request])
    assert (np.diff(shares, axis=0, prepend=0, append=1) >= 0).all()
    assert ((found.token >= 0) & (found.token <= 1)).all()
    assert (np.abs(found.memory) <= 1).all()
    assert (found.sharpness > 0).all()


def test_every_cluster_has_as_many_requests() -> None:
    model = SyntheticModel(parameters(), calibrated().coefficients, 60)
    assert np.bincount([model.cluster_of(request) for request in range(40)]).tolist() == [10] * 4


def test_solve_finds_a_crossing_and_stays_at_the_ends() -> None:
    assert solve(lambda x: x**3, 0.2, 0, 1) ** 3 == pytest.approx(0.2, abs=1e-3)
    assert solve(lambda x: x, 2, 0, 1) == 1
    assert solve(lambda x: x, -2, 0, 1) == 0


def test_statistics_are_one_number_if_all_layers_agree() -> None:
    reported = parameters(overlap=[0.5, 0.6, 0.5]).described()
    assert reported["overlap"] == [0.5, 0.6, 0.5]
    assert reported["load_cv"] == 0.4
    assert statistics().mean() == pytest.approx(ASKED)

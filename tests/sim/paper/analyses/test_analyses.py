"""Analyses of routing: entropy, prediction over distance, similar prompts."""

import numpy as np
import pytest

from sim.forecast.plan_scores import measure, tidy
from sim.forecast.tally import summarise_layers
from sim.inputs import routing_of
from sim.paper.analyses.prompt_pairs import ENTROPY_OUT, MAIN, TRAJECTORY, similar_prompts
from sim.paper.analyses.recall_by_distance import FINE, recall_by_distance
from sim.paper.analyses.routing_entropy import RANDOM, RELEASED, layer_entropies, running_entropies
from sim.paper.analyses.sampled_prompts import sampled
from sim.paper.figures.similarity_scatter import coefficient
from sim.scenario import Scenario
from tests.support.paper_routing import SETTINGS, routing_trace
from traces.analysis.entropy import entropy_bits
from traces.analysis.iterations import iterations_of
from traces.analysis.similarity import pearson
from traces.format.reader import Trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    return routing_trace(tmp_path_factory.mktemp("routing"))


def test_a_sample_is_reproducible_and_in_the_traces_order(trace: Trace) -> None:
    chosen = sampled(trace, SETTINGS)
    assert chosen == sampled(trace, SETTINGS) == sorted(set(chosen))
    assert sampled(trace, {"prompts": 99, "seed": 1}) == trace.request_ids


def test_in_the_released_reading_fine_entropy_is_that_of_k_equal_experts(trace: Trace) -> None:
    table = layer_entropies(trace, SETTINGS)
    means = table.groupby(["reading", "grain"])["entropy_nats"].mean()
    assert means["executed", "fine"] == pytest.approx(np.log(2))
    assert means["gates", "fine"] < means["gates", "coarse"] < np.log(6)  # entropy is concave
    assert len(table) == 4 * trace.shape.layers


def test_coarse_entropy_counts_all_executions_of_a_request(trace: Trace) -> None:
    requests = [trace.read(number) for number in sampled(trace, SETTINGS)]
    by_hand = []
    for recorded in requests:
        counts = np.stack([np.bincount(recorded.experts[:, layer].ravel(), minlength=6) for layer in range(6)])
        shares = counts / counts.sum(axis=1, keepdims=True)
        by_hand.append(-(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1))
    table = layer_entropies(trace, SETTINGS)
    found = table[(table["reading"] == "executed") & (table["grain"] == "coarse")]["entropy_nats"]
    assert found.to_numpy() == pytest.approx(np.mean(by_hand, axis=0))


def test_the_released_running_entropy_treats_each_prompt_token_as_an_iteration(trace: Trace) -> None:
    table = running_entropies(trace, SETTINGS)
    released = table[table["reading"] == RELEASED]["entropy_nats"].to_numpy()
    assert len(released) == trace.rows_of(0) == 5 + 23
    assert released[0] == pytest.approx(np.log(2))
    coarse = layer_entropies(trace, SETTINGS)
    all_of_it = coarse[(coarse["reading"] == "executed") & (coarse["grain"] == "coarse")]["entropy_nats"].mean()
    assert released[-1] == pytest.approx(all_of_it)
    assert len(table[table["reading"] == RANDOM]) == len(released)


def test_one_run_that_plans_all_layers_gives_every_distance_of_map_t(trace: Trace) -> None:
    table = recall_by_distance(trace, {"requests": 2, "distances": [1, 3, 5, 9], "seed": 0})
    assert sorted(table["distance_layers"].unique()) == [1, 3, 5]  # the ninth layer ahead does not exist
    for distance in (1, 3, 5):
        policy = f"map-t,prefetch_distance={distance}"
        routing = routing_of(Scenario(trace.path, policy=policy, requests=2))
        scores = measure(policy, trace.shape, routing.requests, leads=(distance,), history=routing.history)
        summary = summarise_layers(tidy([(policy, scores)], trace.shape))
        expected = summary[~summary["prefill"].astype(bool)]["recall_ahead"].iloc[0]
        rows = table[(table["grain"] == FINE) & (table["distance_layers"] == distance)]
        assert rows["hit_rate"].iloc[0] == pytest.approx(expected)
    assert (
        table["hit_rate"][table["distance_layers"] == 1] == table["hit_rate_from_1"][table["distance_layers"] == 1]
    ).all()


def test_the_main_reading_averages_over_all_pairs_of_decode_steps(trace: Trace) -> None:
    table = similar_prompts(trace, SETTINGS)
    its = [iterations_of(trace.read(number), prefill=True) for number in sampled(trace, SETTINGS)]
    maps = [each.maps[1:].reshape(23, -1) for each in its]
    demands = [each.demands[1:].reshape(23, -1) for each in its]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in maps]
    score = [np.mean([(unit[a] @ unit[b].T).mean() for b in range(6) if b != a]) for a in range(6)]
    shared = [(demands[a][:, None] & demands[b]).sum(axis=2).mean() / 12 for a in range(6) for b in range(6) if b != a]
    points = table[(table["row"] == "point") & (table["similarity"] == TRAJECTORY)]
    assert points["score"].to_numpy() == pytest.approx(np.array(score), rel=1e-5)
    assert points["hit_rate"].mean() == pytest.approx(np.mean(shared), rel=1e-5)
    flat = np.array([entropy_bits(each.maps[1:]).mean() for each in its])
    left = [np.polynomial.Polynomial.fit(flat, points[column], 1) for column in ("score", "hit_rate")]
    residuals = [points[column] - line(flat) for column, line in zip(("score", "hit_rate"), left, strict=True)]
    partial, _ = coefficient(table, TRAJECTORY, (ENTROPY_OUT, MAIN[1]))
    assert partial == pytest.approx(pearson(residuals[0].to_numpy(), residuals[1].to_numpy()))
    found, _ = coefficient(table, TRAJECTORY, MAIN)
    assert found == pytest.approx(pearson(points["score"].to_numpy(), points["hit_rate"].to_numpy()))

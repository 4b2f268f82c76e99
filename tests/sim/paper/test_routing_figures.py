"""Figures about routing alone: entropy, prediction over distance, similar prompts, coverage."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sim.forecast.plan_scores import measure, tidy
from sim.forecast.tally import summarise_layers
from sim.inputs import routing_of
from sim.paper import figure_4
from sim.paper.figure_3a import Figure3a, hot_experts
from sim.paper.figure_3b import Figure3b
from sim.paper.figure_3c import Figure3c
from sim.paper.figure_4 import COARSE, FINE, Figure4, recall_by_distance
from sim.paper.figure_8 import Figure8
from sim.paper.figure_9 import Figure9
from sim.paper.paper_figure import PaperFigure
from sim.paper.prompt_pairs import ENTROPY_OUT, MAIN, TRAJECTORY, similar_prompts
from sim.paper.routing_entropy import RANDOM, RELEASED, heat_maps, layer_entropies, plateau_share, running_entropies
from sim.paper.sampled_prompts import sampled
from sim.paper.similarity_scatter import coefficient
from sim.paper.theory_of_coverage import REPLACEMENT, TheoryOfCoverage, nearest_of_stored
from sim.scenario import Scenario
from tests.support.trace_helpers import random_request, small_meta, small_shape, write_trace
from traces.analysis.entropy import entropy_bits
from traces.analysis.iterations import iterations_of
from traces.analysis.similarity import pearson
from traces.format.reader import Trace

SETTINGS: dict[str, Any] = {"prompts": 6, "seed": 0, "steps": 4, "tested": 20, "train_split": 0.7}


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Ten requests of 24 iterations on six layers."""
    meta = small_meta(shape=small_shape(layers=6))
    requests = [random_request(number, meta, output=24) for number in range(10)]
    return Trace.open(write_trace(tmp_path_factory.mktemp("routing") / "small.trace", meta, [requests]))


def test_a_sample_is_drawn_once_and_in_the_trace_s_order(trace: Trace) -> None:
    chosen = sampled(trace, SETTINGS)
    assert chosen == sampled(trace, SETTINGS) == sorted(set(chosen))
    assert sampled(trace, {"prompts": 99, "seed": 1}) == trace.request_ids


def test_in_the_released_reading_fine_entropy_is_that_of_k_equal_experts(trace: Trace) -> None:
    table = layer_entropies(trace, SETTINGS)
    means = table.groupby(["reading", "grain"])["entropy_nats"].mean()
    assert means["executed", "fine"] == pytest.approx(np.log(2))
    assert means["gates", "fine"] < means["gates", "coarse"] < np.log(6)  # entropy is concave
    assert len(table) == 4 * trace.shape.layers


def test_coarse_entropy_is_of_all_that_a_request_executes(trace: Trace) -> None:
    requests = [trace.read(number) for number in sampled(trace, SETTINGS)]
    by_hand = []
    for recorded in requests:
        counts = np.stack([np.bincount(recorded.experts[:, layer].ravel(), minlength=6) for layer in range(6)])
        shares = counts / counts.sum(axis=1, keepdims=True)
        by_hand.append(-(shares * np.log(np.maximum(shares, 1e-300))).sum(axis=1))
    table = layer_entropies(trace, SETTINGS)
    found = table[(table["reading"] == "executed") & (table["grain"] == "coarse")]["entropy_nats"]
    assert found.to_numpy() == pytest.approx(np.mean(by_hand, axis=0))


def test_the_released_running_entropy_takes_each_prompt_token_for_an_iteration(trace: Trace) -> None:
    table = running_entropies(trace, SETTINGS)
    released = table[table["reading"] == RELEASED]["entropy_nats"].to_numpy()
    assert len(released) == trace.rows_of(0) == 5 + 23
    assert released[0] == pytest.approx(np.log(2))
    coarse = layer_entropies(trace, SETTINGS)
    all_of_it = coarse[(coarse["reading"] == "executed") & (coarse["grain"] == "coarse")]["entropy_nats"].mean()
    assert released[-1] == pytest.approx(all_of_it)
    assert len(table[table["reading"] == RANDOM]) == len(released)


def test_a_plateau_needs_iterations_beyond_it() -> None:
    assert plateau_share(pd.Series([1.0] * 9 + [1.8] * 10 + [2.0])) == pytest.approx(0.9)
    assert np.isnan(plateau_share(pd.Series([1.0] * 19)))


def test_hot_experts_are_the_fewest_with_nine_tenths() -> None:
    assert hot_experts(np.array([[0.95, 0.05, 0, 0], [0.25, 0.25, 0.25, 0.25]])) == pytest.approx((1 + 4) / 2)


def test_one_run_that_plans_all_ahead_gives_every_distance_of_map_t(trace: Trace) -> None:
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


def test_fine_above_coarse_is_asked_at_every_distance() -> None:
    rows = [
        {"model": "M", "prompts": "p", "grain": grain, "distance_layers": d, "hit_rate": rate, "hit_rate_from_1": 0.8}
        for grain, rates in ((FINE, (0.8, 0.79, 0.6)), (COARSE, (0.5, 0.5, 0.7)))
        for d, rate in zip((1, 2, 3), rates, strict=True)
    ]
    above, fall = (claim.ours({"4": pd.DataFrame(rows)}) for claim in Figure4().claims())
    assert above["value"].tolist() == [0.0]
    assert fall["value"].tolist() == pytest.approx([0.1])  # 0.8 → 0.6 over two layers
    assert "d = 3" in above["detail"].iloc[0]


def test_the_main_reading_means_over_all_pairs_of_decode_steps(trace: Trace) -> None:
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


def test_a_trace_without_embeddings_has_no_semantic_similarity(tmp_path: Path) -> None:
    meta = small_meta(embedding=False, prefill=False)
    requests = [random_request(number, meta, output=6) for number in range(5)]
    bare = Trace.open(write_trace(tmp_path / "bare.trace", meta, [requests]))
    table = similar_prompts(bare, SETTINGS)
    assert set(table["similarity"]) == {TRAJECTORY}
    assert "prefill" not in set(table["compared"])
    named = table.assign(model="M", prompts="p")
    for claim in Figure9().claims():
        values = claim.ours({"8": named, "9": named.iloc[:0]})["value"]
        assert values.isna().all() == ("semantic" in claim.key)


def test_a_promise_for_more_maps_than_there_are_is_not_judged(trace: Trace) -> None:
    table = nearest_of_stored(trace, SETTINGS).assign(model="M", prompts="p")
    asked = dict(zip(table["theory"].dropna(), table.loc[table["theory"].notna(), "asked_maps"], strict=True))
    assert asked == {0.75: 72, 0.98: 65}  # 2LJ and ½·LJ·ln(LJ) of 36 experts
    values = [claim.ours({"theory": table})["value"].iloc[0] for claim in TheoryOfCoverage().claims()]
    assert 0 <= values[0] <= 1
    replaced = table[table["store"] == REPLACEMENT]
    assert replaced["maps"].tolist() == [72]
    few = table.assign(maps=table["maps"].clip(upper=64))
    assert np.isnan([claim.ours({"theory": few})["value"].iloc[0] for claim in TheoryOfCoverage().claims()]).all()


def tables_of(trace: Trace) -> dict[str, pd.DataFrame]:
    """The table of each figure, of one trace under two names of models."""
    made = {
        "3a": heat_maps(trace, SETTINGS),
        "3b": layer_entropies(trace, SETTINGS),
        "3c": running_entropies(trace, SETTINGS),
        "4": recall_by_distance(trace, {"requests": 1, "distances": [1, 2], "seed": 0}),
        "theory": nearest_of_stored(trace, SETTINGS),
        "8": similar_prompts(trace, SETTINGS),
    }
    tables = {
        key: pd.concat([table.assign(model=model, prompts="chat") for model in ("Mixtral", "Qwen")], ignore_index=True)
        for key, table in made.items()
    }
    return tables | {"9": tables["8"].iloc[:0]}


FIGURES: tuple[PaperFigure, ...] = (
    Figure3a(),
    Figure3b(),
    Figure3c(),
    Figure4(),
    TheoryOfCoverage(),
    Figure8(),
    Figure9(),
)


def test_every_figure_draws_its_table_and_values_its_claims(trace: Trace) -> None:
    tables = tables_of(trace)
    for figure in FIGURES:
        assert figure.draw(tables[figure.key]).get_size_inches()[0] == pytest.approx(7)
        for claim in figure.claims():
            found = claim.ours(tables)
            assert set(found["footing"]) == {"both"}
            assert {"trace", "value"} <= set(found.columns)


def test_no_figure_about_routing_runs_anything() -> None:
    assert [figure.cases(None) for figure in FIGURES] == [()] * len(FIGURES)  # type: ignore[arg-type]  # no study
    assert max(figure_4.THIN) <= figure_4.FARTHEST

"""Synthetic layers depend on each other as requested: how well the nearest expert map predicts the layers ahead."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.slow_cases import slow_but
from tests.support.synthetic_helpers import SHAPE, TOP_K, drawn, parameters
from traces.format.reader import Trace
from traces.synthetic.coefficients import Calibration, calibrate
from traces.synthetic.measured_statistics import measure
from traces.synthetic.parameters import PHRASE, Parameters
from traces.synthetic.state_space import SyntheticModel
from traces.synthetic.trajectory_search import predicted

FEW, MANY = 8, 12  # layers
OUTPUT = 60  # tokens
LEVELS = {"request_overlap": 0.25, "cluster_overlap": 0.22, "overlap": 0.35, "load_cv": 0.4, "token_overlap": 0.6}


def recall_by_hand(trace: Trace) -> float:
    """Search by search: 1,000 maps of the first two thirds of the requests, for rows of the others."""
    rng = np.random.default_rng(3)
    decode = [(one.gate[one.iteration > 0].astype(float), one.experts[one.iteration > 0]) for one in trace.iter()]
    cut = 2 * len(decode) // 3
    others, executed = (np.concatenate(each) for each in zip(*decode[:cut], strict=True))
    kept = rng.permutation(len(others))[:1000]
    hits: list[int] = []
    for gates, experts in decode[cut:]:
        for row in range(5, len(gates), 12):
            known = np.concatenate([others[kept], gates[:row]])
            routed = np.concatenate([executed[kept], experts[:row]])
            products = (known * gates[row]).sum(axis=2).cumsum(axis=1)  # `[maps, L]`, of all layers up to each
            lengths = np.sqrt((known**2).sum(axis=2).cumsum(axis=1))
            nearest = (products / lengths).argmax(axis=0)
            for layer in range(3, trace.shape.layers):
                found = routed[nearest[layer - 3], layer]
                hits.append(len(set(found.tolist()) & set(experts[row, layer].tolist())))
    return float(np.mean(hits)) / trace.shape.top_k


def asking_for(recall: float, layers: int, **levels: float) -> Parameters:
    shape = replace(SHAPE, layers=layers, experts=16, vocab=32000)
    return parameters({"trajectory_recall": recall, "shape": shape}, **(LEVELS | levels))


@cache
def calibrated(recall: float, layers: int) -> Calibration:
    return calibrate(asking_for(recall, layers), OUTPUT)


@pytest.mark.parametrize(("asked", "layers"), slow_but([(0.4, MANY), (0.52, MANY), (0.52, FEW)], (0.52, FEW)))
def test_the_recall_of_the_nearest_map_comes_out_when_it_is_searched_by_hand(
    tmp_path: Path, asked: float, layers: int
) -> None:
    known = calibrated(asked, layers)
    trace = drawn(tmp_path / "a.trace", asking_for(asked, layers), output=OUTPUT, calibration=known)
    assert recall_by_hand(trace) == pytest.approx(asked, abs=0.05)
    measured = measure(trace)
    assert measured.trajectory_recall == pytest.approx(asked, abs=0.04)
    found = measured.statistics.mean()
    for name in ("overlap", "token_overlap", "cluster_overlap", "request_overlap"):
        assert found[name] == pytest.approx(LEVELS[name], abs=0.03)


@pytest.mark.parametrize(
    ("recalls", "layers"), slow_but([((0.4, 0.46, 0.52), MANY), ((0.46, 0.52), FEW)], ((0.46, 0.52), FEW))
)
def test_fewer_phrases_are_drawn_the_more_a_search_shall_find(recalls: tuple[float, ...], layers: int) -> None:
    phrases = [calibrated(asked, layers).coefficients.phrases for asked in recalls]
    assert phrases == sorted({*phrases}, reverse=True)


def test_where_tokens_decide_all_the_nearest_map_knows_nearly_everything(tmp_path: Path) -> None:
    trace = drawn(tmp_path / "a.trace", asking_for(1.0, FEW, overlap=0.25, token_overlap=1.0), output=OUTPUT)
    assert recall_by_hand(trace) > 0.85


def test_where_tokens_decide_nothing_the_nearest_map_knows_cluster_and_request_at_most(tmp_path: Path) -> None:
    trace = drawn(tmp_path / "a.trace", asking_for(1.0, FEW, overlap=0.25, token_overlap=0.22), output=OUTPUT)
    assert recall_by_hand(trace) < 0.3


def test_predicted_takes_the_nearest_of_the_maps_that_were_known_then() -> None:
    rng = np.random.default_rng(0)
    stored, request = rng.random((2, 30, 5, 8), np.float32)
    request[20], stored[4] = request[7], request[3]  # row 20 has been there before, row 3 elsewhere
    rows = np.array([3, 7, 20])
    found = predicted(stored, request, rows, TOP_K)
    assert found.shape == (3, 2, TOP_K)
    ranked = np.argsort(-request[rows, 3:], axis=2)[..., :TOP_K]
    assert np.array_equal(found[[0, 2]], ranked[[0, 2]])
    assert not np.array_equal(found[1], ranked[1])  # neither itself nor what comes later


def test_phrases_keep_their_order_and_pairs_of_them_are_opposite() -> None:
    wanted = parameters({"clusters": 3})
    model: Any = SyntheticModel(wanted, calibrate(wanted).coefficients, 10)
    token = model.request(0, 1, 200).token
    cluster, place = token % 3, token // 3
    assert (cluster == cluster[0]).all()
    within = place[:-1] % PHRASE < PHRASE - 1
    assert (np.diff(place)[within] == 1).all()
    assert (place[1:][~within] % PHRASE == 0).all()
    np.testing.assert_array_equal(model._pattern(5), -model._pattern(5 + 3 * PHRASE))
    assert abs(np.corrcoef(model._pattern(5).ravel(), model._pattern(5 + 6 * PHRASE).ravel())[0, 1]) < 0.6

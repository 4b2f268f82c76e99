"""Simulated LRU beside an engine's own measured hits: the golden test of cache and accounting.

An engine that streams experts under a global LRU says of each routed expert whether it was there. The same routing
through `simulate`, with as many slots as the engine's budget holds experts of the mean size, must hit alike.
"""

import csv
from pathlib import Path

import pytest

from sim.results.result import Result
from sim.scenario import CacheSize, Scenario
from sim.simulation import simulate
from tests.support.route_traces import Engine, route_file
from tests.support.shared_data import BIG_MOE_ON_EDGE
from traces.__main__ import main
from traces.format.reader import Trace
from traces.format.recorded_hits import recorded_hits

BUDGET_BYTES = 4000 * 2**20
needs_bigmoeonedge = pytest.mark.skipif(not BIG_MOE_ON_EDGE.is_dir(), reason="no measurements of BigMoeOnEdge here")


def traced(file: Path, folder: Path) -> Trace:
    out = folder / "measured.trace"
    assert main(["convert", "route-trace", str(file), "--out", str(out)]) == 0
    return Trace.open(out)


def under_lru(trace: Trace, cache: CacheSize) -> Result:
    """One GPU, the cache empty at first, all requests with their prefills."""
    scenario = Scenario(trace.path, policy="lru", machine="rtx3090", cache=cache, train_split=0, check=True)
    return simulate(scenario, quiet=True)


@needs_bigmoeonedge
def test_lru_hits_as_often_as_the_engine_that_was_measured(tmp_path: Path) -> None:
    """76.8 % of all and 81.91 % of decode by the engine's own counters, and what it read from flash while decoding."""
    with (BIG_MOE_ON_EDGE / "gemma.metrics").open() as lines:
        rows = csv.DictReader(line for line in lines if not line.startswith("#"))
        read_bytes = sum(int(row["read_bytes"]) for row in rows)
    trace = traced(BIG_MOE_ON_EDGE / "gemma.route.csv", tmp_path)
    engine = recorded_hits(trace)
    assert engine["all"].rate == pytest.approx(0.768, abs=5e-4)  # as the engine's summary rounds it
    assert engine["decode"].rate == pytest.approx(0.8191, abs=5e-5)
    result = under_lru(trace, CacheSize(gb=BUDGET_BYTES / 1e9))
    assert result.summary["distinct_demands"] == engine["all"].demanded
    assert result.summary["hit_rate"] == pytest.approx(engine["all"].rate, abs=1e-3)
    assert result.summary["hit_rate_decode"] == pytest.approx(engine["decode"].rate, abs=1e-3)
    assert result.summary["copied_bytes_decode"] == pytest.approx(read_bytes, rel=5e-3)


@pytest.mark.parametrize(
    ("engine", "turns"),
    [
        (Engine(sizes=[3000, 5000, 3000, 4000, 7001], slots=30), [(0, 9, 80)]),
        (Engine(sizes=[0, 6000, 6000, 1500], experts=40, top_k=2, slots=50), [(0, 12, 40), (0, 1, 30), (31, 5, 30)]),
        (Engine(sizes=[2000] * 6, experts=10, top_k=4, slots=33, first_in_last_layer=True), [(0, 6, 70)]),
        (Engine(sizes=[2000, 2500], experts=12, top_k=1, slots=9), [(0, 0, 50), (0, 0, 40)]),
    ],
    ids=["mixed sizes", "a dense layer and three turns", "whole last layer", "no prefill"],
)
def test_lru_hits_exactly_where_the_measured_cache_of_equal_size_did(
    engine: Engine, turns: list, tmp_path: Path
) -> None:
    trace = traced(route_file(tmp_path / "tiny.csv", engine, turns), tmp_path)
    found = recorded_hits(trace)
    for phase, name in enumerate(("prefill", "decode")):
        counted = (engine.demanded[phase], engine.hits[phase], engine.read_bytes[phase])
        assert (found[name].demanded, found[name].hits, found[name].missed_bytes) == counted
    result = under_lru(trace, CacheSize(experts=engine.slots))
    decode = result.iterations[~result.iterations["prefill"]]
    assert result.summary["hits"] == sum(engine.hits.values())
    assert result.summary["distinct_demands"] == sum(engine.demanded.values())
    assert decode["hits"].sum() == engine.hits[1]
    assert result.summary["copied_bytes_decode"] == engine.read_bytes[1]
    assert result.summary["copied_bytes"] == sum(engine.read_bytes.values())
    assert 0.05 < result.summary["hit_rate"] < 0.95


def test_a_budget_in_bytes_has_slots_of_the_mean_size(tmp_path: Path) -> None:
    """Experts of 3000, 5000 and 4000 bytes: 41 kB hold ten of them."""
    trace = traced(route_file(tmp_path / "tiny.csv", Engine(sizes=[3000, 5000, 4000])), tmp_path)
    assert trace.shape.layer_expert_bytes == (3000, 5000, 4000)
    assert CacheSize(gb=41e-6).slots(trace.shape) == 10
    result = under_lru(trace, CacheSize(gb=41e-6))
    assert result.summary["expert_memory_bytes"] == 10 * 4000
    result.write(tmp_path / "run")
    assert Result.read(tmp_path / "run").provenance == result.provenance
    assert result.provenance["model"]["expert_bytes_by_layer"] == [3000, 5000, 4000]

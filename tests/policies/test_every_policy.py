"""Laws for every named policy, alone and with every evictor, and for every variant worth its own run.

A policy added to the tables of `policies.registry` is tested for all of them without a line here. Each check is
shown a policy of `broken_policies` that it must catch.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from common.errors import UserError
from policies.base import Prefetcher
from policies.registry import EVICTORS, NAMED, make_policy, policy_names
from sim.engine.batching import fixed_batches, gates_of
from sim.inputs import check_columns
from tests.support.builders import machine
from tests.support.in_memory import Setting, simulate
from tests.support.policy_helpers import (
    ALONE,
    CAUSAL,
    CAUSAL_ALONE,
    COMPOSED,
    EVERY,
    EVICTORS_ONCE,
    HISTORY,
    IN_BLOCKS,
    LEARNING,
    MODEL,
    ORACLES,
    OTHERS,
    SOME_COMPOSED,
    TEST,
    Watch,
    acts,
    before_demand,
    changed,
    demand_at,
    digest,
    listens,
    remade,
    run,
    same,
    spliced,
    started,
    unchanged,
)
from tests.support.slow_cases import slow_but

ROOT = Path(__file__).parents[2]

# ---- causality: what a policy does depends on what has happened ------------------------------------------------------

CAUSAL_COMPOSED = [spec for spec in COMPOSED if spec in CAUSAL]
# batch size, and the request, iteration and layer of the first difference
IN_A_PREFILL, IN_A_BATCH = (1, 1, 0, 2), (2, 1, 2, 1)
AT_A_TOKEN, AT_A_REQUEST, AT_THE_LAST_LAYER = (1, 0, 3, 0), (1, 2, 0, 0), (1, 2, 2, 3)
ALL_PLACES = (IN_A_PREFILL, IN_A_BATCH, AT_A_TOKEN, AT_A_REQUEST, AT_THE_LAST_LAYER)


def decides_alike(spec, batch_size, number, iteration, layer):
    """Whether the decisions until the first difference are the same, whatever follows."""
    rows = [unchanged(spec, batch_size), run(spec, changed(number, iteration, layer), batch_size=batch_size).log.rows]
    assert rows[0] != rows[1]
    past = [before_demand(each, demand_at(batch_size, number, iteration, layer)) for each in rows]
    assert len(past[0]) > 20
    return past[0] == past[1]


def test_a_splice_is_one_request_before_and_another_after():
    """Request 0 has 5 + 4 tokens, the other 5 + 6; they change at layer 1 of iteration 3, which is token 7."""
    one, other = TEST[0], OTHERS[0]
    both = spliced(one, other, 3, 1)
    assert both.iteration.tolist() == [0] * 5 + list(range(1, 7))
    for name in ("gate", "experts"):
        mine, others, mixed = (getattr(each, name) for each in (one, other, both))
        assert (mixed[:7] == mine[:7]).all()
        assert (mixed[7, :1] == mine[7, :1]).all()
        assert (mixed[7, 1:] == others[7, 1:]).all()
        assert (mixed[8:] == others[8:]).all()
    assert (both.lookahead[2][7, 0] == one.gate[7, 2]).all()
    assert (both.embedding[:8] == one.embedding[:8]).all()
    assert (both.embedding[8:] == other.embedding[8:]).all()


@pytest.mark.parametrize("spec", CAUSAL_ALONE)
def test_the_same_past_gives_the_same_decisions_whatever_follows(spec):
    assert all(decides_alike(spec, *place) for place in ALL_PLACES)


@pytest.mark.parametrize("spec", slow_but(CAUSAL_COMPOSED, *(spec for spec in EVICTORS_ONCE if spec in CAUSAL)))
def test_the_same_past_gives_the_same_decisions_with_any_evictor(spec):
    assert decides_alike(spec, *AT_THE_LAST_LAYER)


@pytest.mark.parametrize("spec", slow_but(ORACLES, *(spec for spec in ORACLES if spec in ALONE + SOME_COMPOSED)))
def test_a_policy_that_knows_the_future_uses_it(spec):
    """An oracle is exempt by its own word in `requires`; it decides otherwise if something else will follow."""
    assert not all(decides_alike(spec, *place) for place in ALL_PLACES)


@pytest.fixture
def as_own(monkeypatch):
    """Lets a broken policy pass as one of this project, whose hooks are not checked."""

    def named(name):
        monkeypatch.setitem(NAMED, f"broken-{name}", f"tests.support.broken_policies:{name}")
        return f"broken-{name}"

    return named


PEEKERS = ["block_peeker", "iteration_peeker", "gate_peeker"]


@pytest.mark.parametrize("name", PEEKERS)
def test_a_look_ahead_of_our_own_is_caught_in_the_log(name, as_own):
    assert not all(decides_alike(as_own(name), *place) for place in ALL_PLACES)


@pytest.mark.parametrize("name", PEEKERS)
def test_a_policy_from_outside_has_nothing_to_look_ahead_by(name):
    """It is shown no blocks, and of a gate a copy; what it looks for is not there."""
    with pytest.raises(UserError, match=r"AttributeError|TypeError"):
        run(f"tests.support.broken_policies:{name}")


# ---- causality of the prefetcher alone: every answer at once, however long it would take -----------------------------


def acts_alike(spec, batch_size, number, iteration, layer):
    """Whether all that is done before a gate is the same when that gate, and all after it, say something else."""
    moment = divmod(demand_at(batch_size, number, iteration, layer), MODEL.layers)
    both = acts_unchanged(spec, batch_size), acts_for(spec, changed(number, iteration, layer), batch_size)
    return same(*([act for act in every if act[0] < moment] for every in both))


def acts_for(spec, requests, batch_size):
    return acts(started(spec, requests), fixed_batches(requests, batch_size))


@cache
def acts_unchanged(spec, batch_size):
    return acts_for(spec, TEST, batch_size)


EVERY_LAYER = tuple((1, 1, iteration, layer) for iteration in (0, 3) for layer in range(MODEL.layers))


@pytest.mark.parametrize("spec", CAUSAL_ALONE)
def test_no_answer_depends_on_coming_layers_or_iterations(spec):
    assert all(acts_alike(spec, *place) for place in (*EVERY_LAYER, IN_A_BATCH))


@pytest.mark.parametrize("name", ["block_peeker", "iteration_peeker", "gate_peeker"])
def test_a_look_ahead_is_caught_in_the_answers(name):
    assert not all(acts_alike(f"tests.support.broken_policies:{name}", *place) for place in EVERY_LAYER)


@pytest.mark.parametrize("spec", ["perfect-prefetch", "clairvoyant"])
def test_a_prefetcher_that_knows_the_future_answers_by_it(spec):
    assert not all(acts_alike(spec, *place) for place in EVERY_LAYER)


# ---- blocks ----------------------------------------------------------------------------------------------------------


def blocks_equal_callbacks(spec, monkeypatch):
    block = [unchanged(spec, size) for size in (1, 2)]
    remade(monkeypatch, lambda policy: setattr(policy.prefetcher, "block", 0))
    return block == [run(spec, batch_size=size).log.rows for size in (1, 2)]


@pytest.mark.parametrize("spec", IN_BLOCKS)
def test_prediction_in_blocks_equals_the_callbacks_predictions(spec, monkeypatch):
    assert blocks_equal_callbacks(spec, monkeypatch)


def test_a_prefetcher_with_blocks_overrides_predict_block():
    offered = {
        spec for spec in ALONE if type(make_policy(spec).prefetcher).predict_block is not Prefetcher.predict_block
    }
    assert set(IN_BLOCKS) == offered != set()


def test_a_block_unlike_the_callbacks_is_caught(as_own, monkeypatch):
    assert not blocks_equal_callbacks(as_own("forgetful"), monkeypatch)


# ---- determinism -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", slow_but(EVERY, *ALONE, *EVICTORS_ONCE))
def test_a_run_repeats_itself(spec):
    assert digest(run(spec).log.rows) == digest(unchanged(spec))


def test_a_draw_without_the_seed_is_caught():
    spec = "tests.support.broken_policies:gambler"
    assert digest(run(spec).log.rows) != digest(unchanged(spec))


@pytest.mark.parametrize("chosen", [ALONE[::5], pytest.param(ALONE, marks=pytest.mark.slow)], ids=["some", "all"])
def test_another_process_decides_alike(chosen):
    """Sets and hashes of text have another order there."""
    specs = [*chosen, "tests.support.broken_policies:hashing"]
    digests = f"[t.digest(t.unchanged(s)) for s in {specs!r}]"
    # Reading the sources of all tests, by which a policy of the tests is known, takes longer than the runs.
    unread = "from policies import naming; naming.sources_of = lambda module: {}"
    code = f"import json; {unread}; from tests.support import policy_helpers as t; print(json.dumps({digests}))"
    another = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": another}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    here = {spec: digest(unchanged(spec)) for spec in specs}
    there = dict(zip(specs, json.loads(done.stdout), strict=True))
    assert here.pop("tests.support.broken_policies:hashing") != there.pop("tests.support.broken_policies:hashing")
    assert here == there


# ---- what a policy may say, and where it must work -------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """Runs whose policies are watched, with the invariants of the cache."""
    watches = []
    remade(monkeypatch, lambda policy: watches.append(Watch(policy)))

    def run_watched(spec, **setting):
        result = run(spec, check=True, **setting)
        assert not watches[-1].running
        assert len(result.requests) == len(TEST)
        return result

    return run_watched


SMALLEST, FULL = {1: MODEL.top_k, 3: 3}, MODEL.total_experts
RUNS = [(gpus, size, learned) for gpus in (1, 3) for size in (1, 3) for learned in (True, False)]


@pytest.mark.parametrize(("gpus", "batch_size", "learned"), slow_but(RUNS, (3, 1, False), (3, 3, True)), ids=str)
@pytest.mark.parametrize("spec", ALONE)
def test_every_policy_works_at_the_smallest_cache(spec, gpus, batch_size, learned, watched):
    """A prefill has up to six experts per layer: it runs in waves, and whole-layer policies take what fits."""
    history = HISTORY if learned else None
    result = watched(spec, gpus=gpus, experts=SMALLEST[gpus], batch_size=batch_size, history=history)
    waves = [row for row in result.log.rows if row.call == "demand" and row.waves > 1]
    assert bool(waves) != make_policy(spec).preloaded


@pytest.mark.parametrize(("gpus", "batch_size", "learned"), slow_but(RUNS, (3, 3, True)), ids=str)
@pytest.mark.parametrize("spec", ALONE)
def test_with_room_for_all_nothing_is_dropped_and_nothing_comes_twice(spec, gpus, batch_size, learned, watched):
    """A copy in chunks may be given up in between, and begun anew; it arrives once."""
    own = make_policy(spec).chunk_bytes
    in_chunks = isinstance(own, int) and own < MODEL.expert_bytes  # those of the run are larger
    history = HISTORY if learned else None
    result = watched(spec, gpus=gpus, experts=FULL, batch_size=batch_size, history=history)
    arrived = [(row.layer, row.expert) for row in result.log.rows if row.complete]
    assert len(arrived) == len(set(arrived))
    assert result.counts.copies - result.counts.cancelled <= FULL
    assert result.counts.evictions == 0
    assert result.counts.cancelled == 0 or in_chunks


@pytest.mark.parametrize("spec", slow_but(COMPOSED, *SOME_COMPOSED))
def test_every_prefetcher_works_with_every_evictor(spec, watched):
    """At the smallest cache, and at one that holds a layer and a half, where there is something to choose."""
    watched(spec, gpus=1, experts=SMALLEST[1], batch_size=3)
    result = watched(spec, gpus=3, experts=9, history=None)
    assert result.counts.evictions > 0


@pytest.mark.parametrize("evictor", EVICTORS)
@pytest.mark.parametrize("name", [name for name in policy_names() if make_policy(name).preloaded])
def test_a_policy_that_keeps_everything_takes_no_evictor(name, evictor):
    with pytest.raises(UserError, match="nothing to evict"):
        make_policy(f"{name}+{evictor}")


# ---- columns ---------------------------------------------------------------------------------------------------------

COLUMNS = {"embedding": "embeddings.parquet", "lookahead_1": "lookahead_1"}
BARE = [replace(recorded, embedding=None, lookahead={}) for recorded in TEST]


GREEDY = "tests.support.broken_policies:greedy"  # asks for columns that it may not get


@pytest.mark.parametrize("spec", slow_but([*EVERY, GREEDY], *ALONE, *SOME_COMPOSED, GREEDY))
def test_a_column_that_is_missing_is_named(spec):
    for need in make_policy(spec).requires - {"future"}:
        lookahead = () if need == "lookahead_1" else (1,)
        with pytest.raises(UserError, match=COLUMNS[need]) as caught:
            check_columns(spec, where="a trace", embedding=need != "embedding", lookahead=lookahead)
        assert "\n" not in str(caught.value)
    check_columns(spec, where="a trace", embedding=True, lookahead=(1,))


@pytest.mark.parametrize("spec", slow_but(ORACLES, *(spec for spec in ORACLES if spec in ALONE + SOME_COMPOSED)))
def test_a_policy_without_the_future_that_it_requires_is_refused(spec):
    with pytest.raises(UserError, match="future") as caught:
        simulate(spec, Setting(model=MODEL, hardware=machine(), cache_experts=9), TEST, history=HISTORY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ALONE)
def test_a_policy_that_needs_no_column_runs_without_any(spec, watched):
    """A trace of gates alone; who said that it needs more names the column in the middle of its run, too."""
    history = [replace(recorded, embedding=None, lookahead={}) for recorded in HISTORY]
    needs = make_policy(spec).requires & COLUMNS.keys()
    if not needs:
        assert len(watched(spec, requests=BARE, history=history).requests) == len(TEST)
        return
    with pytest.raises(UserError, match="|".join(COLUMNS[need] for need in needs)):
        run(spec, BARE, history=history)


# ---- learning --------------------------------------------------------------------------------------------------------


def second_request(spec, first=""):
    """What a prefetcher does in a request when the one before it has "ended", has "begun", or has not been."""
    before, steps = (list(fixed_batches([recorded], 1)) for recorded in TEST[:2])
    prefetcher = started(spec)
    prefetcher.block = 0
    if first == "ended":
        acts(prefetcher, before)
    if first == "begun":
        batch = before[0].batch
        prefetcher.on_request_start(0)
        list(prefetcher.on_batch(batch))
        for gate in gates_of(before[0]):
            list(prefetcher.on_gate(batch, gate))
    return acts(prefetcher, steps)


@pytest.mark.parametrize("spec", CAUSAL_ALONE)
def test_nothing_is_learned_from_unfinished_iterations(spec):
    """All gates of a first iteration, without its end, leave no trace in what another request is given."""
    assert same(second_request(spec, "begun"), second_request(spec))


@pytest.mark.parametrize("spec", LEARNING)
def test_finished_iterations_are_learned(spec):
    assert not same(second_request(spec, "ended"), second_request(spec))


@pytest.mark.parametrize("spec", [spec for spec in CAUSAL_ALONE if not listens(spec)])
def test_a_policy_that_never_sees_a_request_end_repeats_itself(spec):
    assert same(second_request(spec, "ended"), second_request(spec))


def test_learning_too_early_is_caught():
    spec = "tests.support.broken_policies:hasty"
    assert not same(second_request(spec, "begun"), second_request(spec))

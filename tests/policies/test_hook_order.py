"""One order of hooks, in the engine, in the driver of real devices and in forecasts; and the setup of a policy."""

import numpy as np
import pytest

from policies.base import Evictor, Policy, Prefetcher
from policies.cache.setup_without_cache import setup_without_cache
from policies.checked_policy import to_run
from policies.hooks import Hooks
from policies.types import Prefetch, Search
from sim.engine.batching import fixed_batches
from sim.forecast.plan_scores import measure, score_plans
from sim.hardware.costs import rates_of
from sim.results.result import Result
from tests.support.both_drivers import Played, both
from tests.support.builders import KnownFuture, machine, random_requests, shape
from tests.support.in_memory import Setting, simulate
from tests.support.policy_helpers import remade

MODEL = shape(layers=3, experts=6, top_k=2)
REQUESTS = random_requests(MODEL, np.random.default_rng(0), requests=2, decoded=2, prefill_tokens=3, hidden=3)


class Diary(Prefetcher):
    """Notes each call; plans a little, and charges an update."""

    def __init__(self, calls):
        self.calls = calls

    def start(self, setup):
        self.calls.append(("start",))

    def on_request_start(self, request):
        self.calls.append(("on_request_start", request))

    def on_request_end(self, request):
        self.calls.append(("on_request_end", request))

    def on_batch(self, batch):
        self.calls.append(("on_batch", batch.iteration, batch.prefill.tolist()))
        return [Prefetch(0, [batch.iteration % 6], [1.0])]

    def on_layer(self, batch, layer):
        self.calls.append(("on_layer", batch.iteration, layer))
        return ()

    def on_gate(self, batch, gate):
        self.calls.append(("on_gate", batch.iteration, gate.layer, gate.experts.tolist()))
        return [Prefetch((gate.layer + 1) % 3, [gate.layer], [1.0])]

    def on_batch_end(self, batch, maps, experts):
        self.calls.append(("on_batch_end", batch.iteration, maps.shape, experts.tolist()))
        return [Search("update", 2, 1, 4, 4)]


class EvictorsDiary(Evictor):
    def __init__(self, calls):
        self.calls = calls

    def start(self, setup):
        super().start(setup)
        self.calls.append(("evictor's start",))

    def on_batch(self, batch):
        self.calls.append(("evictor's on_batch", batch.iteration))
        return [Search("update", -1, 1, 2, 2)]

    def touched(self, layer, experts, now_s):
        self.calls.append(("touched", layer, list(experts)))

    def loaded(self, layer, expert, now_s):
        self.calls.append(("loaded", layer, expert))

    def evicted(self, layer, expert, now_s):
        self.calls.append(("evicted", layer, expert))

    def believe(self, layer, probs):
        self.calls.append(("believe", layer, probs.tolist()))


def diary():
    calls = []
    return Policy(prefetcher=Diary(calls), evictor=EvictorsDiary(calls)), calls


OF_A_CACHE = {"loaded", "evicted", "believe"}


def test_engine_driver_and_forecast_call_in_the_same_order():
    given = {"model": MODEL, "slots": 4, "gpus": 1, "history": REQUESTS}
    diaries = []
    for play in (Played.simulated, Played.run):
        policy, calls = diary()
        play(Played(policy, REQUESTS, **given), 1)
        diaries.append(calls)
    assert diaries[0] == diaries[1]
    assert {call[0] for call in diaries[0]} >= {"loaded", "evicted", "believe", "on_layer"}

    policy, calls = diary()
    hooks = Hooks(policy)
    policy.start(setup_without_cache(MODEL, np.random.default_rng(0)))
    score_plans(hooks, MODEL, REQUESTS)
    assert calls == [call for call in diaries[0] if call[0] not in OF_A_CACHE]


def test_hooks_are_called_in_the_documented_order_evictor_first():
    policy, calls = diary()
    Played(policy, REQUESTS[:1], model=MODEL, slots=4, gpus=1).simulated(1)
    names = [call[0] for call in calls if call[0] not in OF_A_CACHE]
    layers = ["on_layer", "touched", "on_gate"] * 3
    iterations = [["evictor's on_batch", *["on_request_start"] * (n == 0), "on_batch", *layers] for n in range(3)]
    assert names == [
        "start",
        "evictor's start",
        *[name for n in range(3) for name in (*iterations[n], "on_batch_end")],
        "on_request_end",
    ]


def test_an_iteration_ends_with_the_experts_that_it_executed():
    policy, calls = diary()
    Played(policy, REQUESTS, model=MODEL, slots=4, gpus=1).simulated(2)
    executed = [call[3] for call in calls if call[0] == "on_batch_end"]
    assert executed == [step.experts.tolist() for step in fixed_batches(REQUESTS, 2)]


# ---- charging --------------------------------------------------------------------------------------------------------


class Charging(Evictor):
    def __init__(self, entries):
        self.entries = entries

    def touched(self, layer, experts, now_s):
        return [Search("update", layer, 1, 1000, self.entries)] if self.entries else None


class Asking(Prefetcher):
    def on_gate(self, batch, gate):
        return [Search("speculate", gate.layer, 1, 1, 1)]


@pytest.mark.parametrize("play", [Played.simulated, Played.run])
def test_the_evictors_work_delays_the_searches_after_it(play):
    """Two thousand numbers of 4 bytes at 1e9 bytes/s take 8 µs, after the overhead of 1 µs."""
    ends = []
    for entries in (0, 2):
        found_s = []

        class Timed(Asking):
            def search(self, search):
                from policies.types import Likely

                return Likely(np.array([0]), np.zeros((1, 1, 6)))

            def on_found(self, batch, layer_now, search, found, found_s=found_s):
                found_s.append(len(found_s))
                return [Prefetch(0, [0], [1.0])]

        policy = Policy(prefetcher=Timed(), evictor=Charging(entries), blocking_prediction=True)
        played = play(Played(policy, REQUESTS[:1], model=MODEL, slots=18, gpus=1), 1)
        assert len(found_s) == 9
        ends.append(played.recorder.iterations()["end_s"].iloc[-1])
    charged_s = (1e-6 + 2 * 1000 * 4 / 1e9) * 1.0047  # stretched, as each cost of that cost model is
    assert ends[1] - ends[0] == pytest.approx(9 * charged_s, rel=0.01)


def of(spec, **more):
    setting = Setting(model=MODEL, hardware=machine(2), cache_experts=9, **more)
    future = KnownFuture(MODEL, REQUESTS)
    run = simulate(spec, setting, REQUESTS, history=REQUESTS, future=future)
    return Result.of(setting.scenario(spec), setting.inputs(REQUESTS, REQUESTS, future), run)


def test_results_say_whether_predicting_took_time():
    """Who plans nothing has nothing to charge."""
    specs = ("finemoe", "hit-count,prefetch_distance=1", "deepspeed", "clairvoyant", "lru", "no-offload")
    charged = [of(spec).summary["prediction_charged"] for spec in specs]
    assert charged == [True, True, False, False, None, None]


@pytest.mark.parametrize("check", [False, True])
def test_updates_alone_are_a_charge(check):
    policy, _ = diary()
    hooks = Hooks(to_run(policy, "lru", check=check))
    hooks.policy.start(setup_without_cache(MODEL, np.random.default_rng(0)))
    step = next(fixed_batches(REQUESTS, 1))
    assert not hooks.charged
    assert len(hooks.end_iteration(step.batch, step.maps, step.experts, ())) == 1
    assert hooks.charged


# ---- what a policy gets at its start ---------------------------------------------------------------------------------


def setup_of(spec, monkeypatch):
    """The setup that a policy is given in a simulation."""
    setups = []

    def listen(policy):
        start = policy.prefetcher.start
        policy.prefetcher.start = lambda setup: (setups.append(setup), start(setup))

    remade(monkeypatch, listen)
    of(spec)
    return setups[0]


def test_only_a_policy_that_requires_the_future_gets_it(monkeypatch):
    assert setup_of("finemoe", monkeypatch).future is None
    assert setup_of("perfect-prefetch", monkeypatch).future is not None
    assert setup_of("finemoe+belady", monkeypatch).future is not None


def test_a_policy_knows_slots_history_rates_and_an_empty_cache(monkeypatch):
    setup = setup_of("finemoe", monkeypatch)
    assert (setup.model, tuple(setup.slots), list(setup.history)) == (MODEL, (5, 4), REQUESTS)
    assert [name for name in dir(setup.history) if not name.startswith("_")] == []  # nor what it is read from
    cost = machine(2).cost(MODEL)
    rates = setup.rates
    assert rates.copy_s(24) == cost.copy_s(24)
    assert rates.search_s(Search("match", 0, 2, 3, 4)) == cost.search_s(Search("match", 0, 2, 3, 4))
    assert rates.layer_s(1) == cost.dense_s(1, 1, 1) + cost.expert_s(1) + cost.exchange_s(1)  # one expert on each GPU
    on_one = rates_of(cost, MODEL, 1)
    assert on_one.layer_s(1) == cost.dense_s(1, 1, 1) + 2 * cost.expert_s(1) + cost.exchange_s(1)
    # Five tokens execute ten: all six experts, with two tokens at most; they see 1 + 2 + … + 5 positions.
    assert on_one.layer_s(5) == cost.dense_s(5, 5, 15) + 6 * cost.expert_s(2) + cost.exchange_s(5)


def test_a_forecast_has_no_rates_and_nothing_is_resident():
    setup = setup_without_cache(MODEL, np.random.default_rng(0))
    view = setup.residency
    assert setup.rates is None
    assert not (view.resident | view.copying | view.planned).any()
    assert view.queued_bytes.tolist() == [0]


def test_a_policy_with_shared_state_runs_in_a_forecast_too():
    history = random_requests(MODEL, np.random.default_rng(5), requests=3, hidden=3)
    found = measure("tests.support.learned_policy:learned", MODEL, REQUESTS, history=history)
    assert found.charged
    assert set(found.layers["distance"]) <= {1, 2, 3}


# ---- standing still --------------------------------------------------------------------------------------------------


def test_both_drivers_report_a_deadlock(monkeypatch):
    """A cache that forgets what was demanded."""
    from common.errors import UserError
    from policies.cache.expert_cache import ExpertCache

    demand = ExpertCache.demand

    def forgetful(cache, layer, experts, now_s):
        answer = demand(cache, layer, experts, now_s)
        if layer == 1:
            for device in cache.devices:
                device.demanded.clear()
            cache.wake.clear()
        return answer

    monkeypatch.setattr(ExpertCache, "demand", forgetful)
    for play in (Played.simulated, Played.run):
        with pytest.raises(UserError, match=r"^the run is stuck in iteration 0 after .* s: layer 1 waits for"):
            play(Played(Policy(prefetcher=Prefetcher(), evictor=Evictor()), REQUESTS, model=MODEL, slots=6, gpus=1), 1)


def test_the_tests_of_one_log_use_both():
    simulated, run = both(lambda: diary()[0])
    assert simulated.bytes() == run.bytes()

"""The bounds on real routing: gpt-oss-20b, and the pocket model with Mixtral's sizes."""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.registry import EVICTORS, make_policy, policy_names
from policies.types import ModelShape, RecordedRequest
from sim.hardware.presets import preset
from sim.inputs import with_sizes_of
from sim.scenario import CacheSize
from sim.started_policy import Outcome
from sim.sweeps.reference_runs import know_all
from tests.support.in_memory import Setting, lower_bound_s, simulate
from tests.support.shared_data import GPT_OSS
from tests.support.slow_cases import slow_but
from traces.published_models import published

SHARES = (0.25, 0.5, 0.75)
GIGABYTES_PER_S = (8, 32, 128)
SLACK = 1.005  # of a TPOT beside clairvoyant's
PARTLY = ("perfect-prefetch+belady", "perfect-prefetch,prefetch_distance=1+belady", "finemoe+lru", "finemoe+belady")


@dataclass(frozen=True)
class Routing:
    """Requests to learn from and to simulate, held in memory; also the future of the latter."""

    model: ModelShape
    history: list[RecordedRequest]
    tested: list[RecordedRequest]

    @property
    def requests(self) -> list[int]:
        return [recorded.request for recorded in self.tested]

    def demands(self, request: int) -> Any:
        recorded = self.tested[self.requests.index(request)]
        step = np.unique(recorded.iteration, return_inverse=True)[1]
        used = np.zeros((step[-1] + 1, self.model.layers, self.model.experts), bool)
        used[step[:, None, None], np.arange(self.model.layers)[:, None], recorded.experts] = True
        return used

    def columns(self) -> set[str]:
        one = self.tested[0]
        return {"future", *(["embedding"] * (one.embedding is not None)), *(["lookahead"] * bool(one.lookahead))}


@cache
def gpt_oss() -> Routing:
    """Seven requests of 32 decode steps; read from the arrays, as converting the whole takes longer than the test."""
    if not GPT_OSS.exists():
        pytest.skip(f"{GPT_OSS} is not there; FINEMOE_DATA names another place")
    model = published("gpt-oss-20b")
    with np.load(GPT_OSS) as arrays:
        offsets, experts, probs = arrays["offsets"], arrays["experts"], arrays["probs"]
    found = []
    for number in range(7):
        rows = slice(int(offsets[number * 25]), int(offsets[number * 25]) + 32)
        executed = experts[rows].astype(np.int16)
        gate = np.zeros((32, model.layers, model.experts), np.float16)
        np.put_along_axis(gate, executed.astype(np.int64), probs[rows], axis=2)
        steps = np.arange(32, dtype=np.int32)
        found.append(RecordedRequest(number, "gpt-oss-20b", steps + 1, steps, steps, gate, executed))
    return Routing(model, found[:4], found[4:])


@cache
def pocket(folder: Path) -> Routing:
    """The model that ships with the project on its demo prompts, with Mixtral's sizes."""
    pytest.importorskip("torch", reason="the pocket model needs torch")
    pytest.importorskip("transformers", reason="the pocket model needs transformers")
    from traces import pocket as shipped
    from traces.__main__ import main
    from traces.format.reader import Trace

    prompts = folder / "prompts.jsonl"
    lines = (Path(shipped.__file__).parent / "demo_prompts.jsonl").read_text().splitlines()
    prompts.write_text("\n".join(lines[:27:3]) + "\n")
    words = ["--max-new-tokens", "16", "--threads", "1", "--lookahead", "1", "--out", str(folder / "pocket.trace")]
    assert main(["collect", "pocket", "--prompts", str(prompts), *words]) == 0
    trace = Trace.open(folder / "pocket.trace")
    requests = list(trace.iter())
    return Routing(with_sizes_of(trace.shape, "mixtral-8x7b"), requests[:6], requests[6:])


@pytest.fixture(scope="module", params=slow_but(["gpt-oss-20b", "pocket"], "pocket"))
def routing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Routing:
    return gpt_oss() if request.param == "gpt-oss-20b" else pocket(tmp_path_factory.getbasetemp())


def setting_of(routing: Routing, share: float, gigabytes_per_s: float, gpus: int = 1) -> Setting:
    machine = preset("rtx3090")
    link = replace(machine.host_link, bytes_per_s=gigabytes_per_s * 1e9)
    return Setting(
        model=routing.model,
        hardware=replace(machine, gpus=gpus, host_link=link),
        cache_experts=CacheSize(share=share).slots(routing.model),
    )


def run(spec: str, setting: Setting, routing: Routing) -> Outcome:
    return simulate(spec, setting, routing.tested, history=routing.history, future=routing)


def hit_rate(run: Outcome) -> float:
    return run.counts.hits / (run.counts.hits + run.counts.late + run.counts.misses)


def possible(spec: str, routing: Routing) -> bool:
    return make_policy(spec).requires <= routing.columns()


@pytest.mark.parametrize("share", slow_but(SHARES, 0.25))
def test_belady_has_the_highest_hit_rate_of_all_that_copy_only_what_was_demanded(
    routing: Routing, share: float
) -> None:
    setting = setting_of(routing, share, 32)
    rates = {evictor: hit_rate(run(f"lru+{evictor}", setting, routing)) for evictor in EVICTORS}
    best = rates.pop("belady")
    assert best > max(rates.values())


GRID = list(product(SHARES, GIGABYTES_PER_S))


@pytest.mark.parametrize(("share", "gigabytes_per_s"), slow_but(GRID, (0.25, 8)))
def test_with_one_link_and_room_no_policy_beats_clairvoyant_and_none_passes_the_bound(
    routing: Routing, share: float, gigabytes_per_s: float
) -> None:
    setting = setting_of(routing, share, gigabytes_per_s)
    resident = run("no-offload", setting, routing)
    least_s = lower_bound_s(setting, routing.tested, resident)
    clairvoyant = run("clairvoyant", setting, routing)
    best_s = clairvoyant.requests["tpot_s"].mean()
    assert least_s * (1 - 1e-12) <= clairvoyant.makespan_s
    for spec in (*policy_names(), *PARTLY):
        if spec in ("no-offload", "clairvoyant", "oracle") or not possible(spec, routing):
            continue
        found = run(spec, setting, routing)
        assert found.makespan_s >= least_s * (1 - 1e-12), spec
        assert best_s <= found.requests["tpot_s"].mean() * SLACK, spec


@pytest.mark.parametrize(("share", "gigabytes_per_s"), slow_but(GRID, (0.5, 32)))
def test_no_policy_passes_the_bound_on_six_gpus(routing: Routing, share: float, gigabytes_per_s: float) -> None:
    setting = setting_of(routing, share, gigabytes_per_s, gpus=6)
    least_s = lower_bound_s(setting, routing.tested, run("no-offload", setting, routing))
    best_s = run("clairvoyant", setting, routing).requests["tpot_s"].mean()
    for spec in ("belady", "finemoe", "perfect-prefetch", *PARTLY):
        found = run(spec, setting, routing)
        assert found.makespan_s >= least_s * (1 - 1e-12), spec
        assert best_s <= found.requests["tpot_s"].mean() * SLACK, spec


def test_on_six_gpus_with_few_slots_perfect_prefetch_beats_clairvoyant_but_not_the_bound() -> None:
    """So clairvoyant is no bound, and the best known is the fastest of several."""
    routing = replace(gpt_oss(), tested=gpt_oss().tested[:1])
    setting = setting_of(routing, 0.06, 32, gpus=6)
    least_s = lower_bound_s(setting, routing.tested, run("no-offload", setting, routing))
    took_s = {spec: run(spec, setting, routing).makespan_s for spec in know_all(routing.model.layers)}
    assert least_s <= min(took_s.values()) < 0.97 * took_s["clairvoyant"]


@pytest.mark.parametrize(("share", "gigabytes_per_s"), slow_but(GRID, (0.25, 32), (0.75, 128)))
def test_the_clairvoyant_is_close_to_the_bound_on_one_gpu(share: float, gigabytes_per_s: float) -> None:
    """What is left is within 6 % on gpt-oss-20b, so the bound and the policy vouch for each other."""
    routing = gpt_oss()
    setting = setting_of(routing, share, gigabytes_per_s)
    least_s = lower_bound_s(setting, routing.tested, run("no-offload", setting, routing))
    assert run("clairvoyant", setting, routing).makespan_s <= 1.06 * least_s

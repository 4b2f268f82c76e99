"""How many decode iterations per second the simulator replays on one core.

    python benchmarks/sim_speed.py [--json] [--iterations 1000] [--repeat 7] [--against CHECKOUT]

Routing of the shapes of mixtral-8x7b (32 layers × 8 experts, top-2) and gpt-oss-20b (24 × 32, top-4), on six GPUs that
hold 25 % of the experts; h = 64, store of 1000 maps. It is drawn at random (clustered, with some repetition from token
to token): it sets the amount of work, no more. `to_finemoe` is the time of an iteration over that with `finemoe`.
Timed is a run from its first iteration to its last, in processor time of one core, the best of several; drawing the
trace and starting the policy are not part of it.

With `--against` the same benchmark of another checkout is run in turn with this one, each in a process of its own. The
last column is the median of the ratios, this one's speed over the other's: pairs that ran one after the other compare
even where the machine's speed drifts.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from common.tables import record_table
from policies.types import ModelShape, RecordedRequest
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from sim.hardware.costs import rates_of
from sim.hardware.presets import preset
from sim.inputs import Inputs
from sim.scenario import CacheSize, Scenario
from sim.started_policy import StartedPolicy
from traces.published_models import published

HIDDEN = 64
REQUEST_ITERATIONS = 200
POLICIES = {
    "mixtral-8x7b": ("finemoe", "finemoe,learn=false", "lru"),
    "gpt-oss-20b": ("finemoe", "lru", "deepspeed", "moe-infinity", "moe-infinity-code", "hit-count"),
}
Case = tuple[str, int, int]  # policy, layers, experts


def drawn_requests(model: ModelShape, requests: int, rng: np.random.Generator) -> list[RecordedRequest]:
    """Requests of 200 decode iterations each; a token stays in its predecessor's cluster with probability 0.35."""
    clusters, steps = 40, REQUEST_ITERATIONS
    centres = rng.dirichlet(np.full(model.experts, 0.3), size=(clusters, model.layers))
    vocabulary = rng.normal(size=(50 * clusters, HIDDEN)).astype(np.float16)
    answer = []
    for number in range(requests):
        cluster = rng.integers(clusters, size=steps)
        for place in np.flatnonzero(rng.random(steps - 1) < 0.35) + 1:
            cluster[place] = cluster[place - 1]
        gate = 0.8 * centres[cluster] + 0.2 * rng.dirichlet(np.full(model.experts, 0.5), size=(steps, model.layers))
        token = (rng.zipf(1.5, steps) % 50 + 50 * cluster).astype(np.int32)
        answer.append(
            RecordedRequest(
                request=number,
                source="synthetic",
                iteration=np.arange(1, steps + 1, dtype=np.int32),
                position=np.arange(40, 40 + steps, dtype=np.int32),
                token=token,
                gate=gate.astype(np.float16),
                experts=np.argsort(-gate, axis=2)[:, :, : model.top_k].astype(np.int16),
                embedding=vocabulary[token],
            )
        )
    return answer


def seconds_of(spec: str, model: ModelShape, history: list[RecordedRequest], requests: list[RecordedRequest]) -> float:
    """Processor time of one run."""
    machine = preset("rtx3090x6")
    scenario = Scenario("drawn.trace", policy=spec, cache=CacheSize(share=0.25))
    cost = machine.cost(model)
    inputs = Inputs(model=model, machine=machine, requests=requests, history=history)
    started = StartedPolicy(scenario, inputs, rates_of(cost, model, machine.gpus))
    engine = Engine(
        hooks=started.hooks,
        cache=started.cache,
        cost=cost,
        steps=fixed_batches(requests, 1),
        recorder=Recorder(),
    )
    gc.collect()
    began_s = time.process_time()
    engine.run()
    return time.process_time() - began_s


def compared(other: Path, iterations: int, pairs: int) -> list[dict[str, object]]:
    """Iterations per second here and there, medians of so many pairs of processes, and the median of their ratios.

    Of what both checkouts measure.
    """
    speeds: dict[Case, list[tuple[float, float]]] = {}
    for pair in range(pairs):
        order = (Path.cwd(), other) if pair % 2 else (other, Path.cwd())
        found = {place: measured_in(place, iterations) for place in order}
        for case in found[Path.cwd()].keys() & found[other].keys():
            speeds.setdefault(case, []).append((found[Path.cwd()][case], found[other][case]))
    return [
        {
            "policy": policy,
            "layers": layers,
            "experts": experts,
            "here": round(median(here for here, _ in both), 1),
            "there": round(median(there for _, there in both), 1),
            "ratio": round(median(here / there for here, there in both), 4),
        }
        for (policy, layers, experts), both in sorted(speeds.items())
    ]


def measured_in(checkout: Path, iterations: int) -> dict[Case, float]:
    """Iterations per second in each case, the best of three runs of the checkout's own benchmark."""
    words = [sys.executable, "benchmarks/sim_speed.py", "--json", "--repeat", "3", "--iterations", str(iterations)]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=checkout, env=environment)
    return {(row["policy"], row["layers"], row["experts"]): row["iterations_per_s"] for row in json.loads(done.stdout)}


def measured(name: str, iterations: int, repeat: int) -> list[dict[str, object]]:
    """A row per policy that is run with the routing of a model; policies take turns, and the best time counts."""
    model = published(name)
    count = -(-iterations // REQUEST_ITERATIONS)
    drawn = drawn_requests(model, count + 6, np.random.default_rng(0))
    history, requests = drawn[:6], drawn[6:]
    turns = [[seconds_of(spec, model, history, requests) for spec in POLICIES[name]] for _ in range(repeat)]
    best_s = dict(zip(POLICIES[name], map(min, *turns) if repeat > 1 else turns[0], strict=True))
    return [
        {
            "policy": spec,
            "layers": model.layers,
            "experts": model.experts,
            "iterations_per_s": round(count * REQUEST_ITERATIONS / seconds, 1),
            "to_finemoe": round(seconds / best_s["finemoe"], 2),
        }
        for spec, seconds in best_s.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print a list, an object per policy")
    parser.add_argument("--iterations", type=int, default=1000, help="decode iterations per run (default: 1000)")
    parser.add_argument("--repeat", type=int, default=7, help="runs, of which the best counts (default: 7)")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a checkout to run in turn with this one")
    args = parser.parse_args()
    if args.against:
        print(record_table(compared(args.against, args.iterations, args.repeat)))
        return
    with threadpool_limits(1):
        rows = [row for name in POLICIES for row in measured(name, args.iterations, args.repeat)]
    print(json.dumps(rows, indent=2) if args.json else record_table(rows))


if __name__ == "__main__":
    main()

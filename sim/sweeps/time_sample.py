"""Estimates how long a sweep will take, from timed runs of a few requests."""

import time
from collections.abc import Sequence
from dataclasses import replace

from common.progress import bar
from sim.inputs import Resolver
from sim.scenario import Scenario
from sim.simulation import simulated_run
from sim.sweeps.run_task import RunTask

FEW, MORE = 1, 3  # requests in the two runs of a sample


def sampled_seconds(tasks: Sequence[RunTask]) -> float:
    """Estimate the wall time in seconds of all tasks, one after another.

    A run of each policy is timed with few requests and with more: the difference is proportional to the tokens to
    serve, the rest is spent once per run. Savings from data that runs share are not subtracted. A policy that fails in
    the sample counts as 0, and lower bounds are left out.
    """
    rates: dict[str, tuple[float, float]] = {}
    resolver = Resolver()
    total_s = 0.0
    with bar("timing a sample", sum(not task.bound for task in tasks), unit="run") as done:
        for task in tasks:
            if task.bound:
                continue
            policy = task.scenario.policy
            inputs = resolver.resolve(task.scenario)
            if policy not in rates:
                rates[policy] = _timed(task.scenario, resolver)
            fixed_s, token_s = rates[policy]
            total_s += fixed_s + token_s * inputs.tokens
            done(1)
    return total_s


def _timed(scenario: Scenario, resolver: Resolver) -> tuple[float, float]:
    """The fixed seconds of a run, and the seconds per token."""
    taken_s, tokens = [], []
    for count in (FEW, MORE):
        inputs = resolver.resolve(replace(scenario, requests=min(count, scenario.requests or count)))
        began_s = time.perf_counter()
        try:
            simulated_run(scenario, inputs)
        except Exception:  # whatever a policy may raise; the sweep reports it
            return 0.0, 0.0
        taken_s.append(time.perf_counter() - began_s)
        tokens.append(inputs.tokens)
    token_s = max(0.0, (taken_s[1] - taken_s[0]) / (tokens[1] - tokens[0])) if tokens[1] > tokens[0] else 0.0
    return max(0.0, taken_s[0] - token_s * tokens[0]), token_s or taken_s[1] / tokens[1]

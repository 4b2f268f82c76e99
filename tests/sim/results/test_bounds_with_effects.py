"""The least makespan where links share host memory, and the framework takes time."""

import numpy as np
import pytest

from policies.registry import policy_names
from sim.hardware.effects import Effects
from tests.support.affected import Affected
from tests.support.builders import KnownFuture, machine, random_requests, shape, with_lookahead
from tests.support.in_memory import Setting, lower_bound_s, simulate
from tests.support.slow_cases import slow_but, some_policies

MODEL = shape(4, 6)
REQUESTS = [
    with_lookahead(recorded, 1)
    for recorded in random_requests(MODEL, np.random.default_rng(8), requests=4, decoded=6, prefill_tokens=3, hidden=3)
]
HISTORY, TEST = REQUESTS[:2], REQUESTS[2:]
HOST = Effects(host_bytes_per_s=0.9e6)
ALL = Effects(host_bytes_per_s=0.9e6, layer_host_s=2e-6, expert_host_s=1e-6, compute_slowdown=1.4, copy_slowdown=1.2)


def setting(effects, *, replicas=1):
    hardware = Affected(machine(3, bytes_per_s=1e6, latency_s=1e-6), effects)
    return Setting(model=MODEL, hardware=hardware, cache_experts=9, replicas=replicas)


def bound_s(given):
    return lower_bound_s(given, TEST, simulate("no-offload", given, TEST), HISTORY)


@pytest.mark.parametrize("policy", some_policies([name for name in policy_names() if name != "no-offload"]))
@pytest.mark.parametrize("effects", slow_but([HOST, ALL], ALL), ids=["host memory", "all"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_no_policy_passes_the_bound_with_effects(policy, effects, replicas):
    given = setting(effects, replicas=replicas)
    found = simulate(policy, given, TEST, history=HISTORY, future=KnownFuture(MODEL, TEST))
    assert found.makespan_s >= bound_s(given) * (1 - 1e-9)


def test_limiting_host_memory_raises_the_bound():
    """All loads together need their bytes at its bandwidth, here less than a third of what the links could move."""
    assert bound_s(setting(HOST)) > 1.5 * bound_s(setting(Effects()))

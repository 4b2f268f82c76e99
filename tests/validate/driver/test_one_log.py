"""The validator's own loop, driven by a fake clock, writes the simulator's decision log byte for byte."""

import pytest

from policies.registry import make_policy, policy_names
from tests.support.both_drivers import assert_same, both
from tests.support.policy_helpers import OUTSIDE
from tests.support.restless import both_at_random
from tests.support.slow_cases import slow_but

LEARNED = "tests.support.learned_policy:learned"  # shares state, reads residency and rates, charges both parts


# GPUs, replicas, batch size and slots
PLACES = [
    (*links, *sizes) for links in ((1, 1), (3, 1), (3, 2)) for sizes in ((1, 4), (1, 9), (1, 16), (3, 4), (3, 16))
]


ALIKE = {  # differ from one that is run in what they rank, not in when they are called
    "belady",
    "lfu",
    "map-t",
    "map-ts-delta",
    "mixtral-offloading-released",
    "moe-infinity-code",
    "oracle",
}
NAMES = [*policy_names(), *OUTSIDE, LEARNED]


@pytest.mark.parametrize(("gpus", "replicas", "batch_size", "slots"), slow_but(PLACES, (3, 2, 3, 4)))
@pytest.mark.parametrize("name", slow_but(NAMES, *(name for name in NAMES if name not in ALIKE)))
def test_both_drivers_write_the_same_log(name: str, gpus: int, replicas: int, batch_size: int, slots: int) -> None:
    simulated, run = both(
        lambda: make_policy(name), name=name, gpus=gpus, replicas=replicas, slots=slots, batch_size=batch_size
    )
    assert_same(simulated, run)
    assert len(run.log.rows) > 200 or name == "no-offload"


@pytest.mark.parametrize("seed", slow_but(range(60), *range(6), 6, 8))
def test_both_drivers_write_the_same_log_whatever_a_policy_does(seed: int) -> None:
    simulated, run = both_at_random(seed, 1 if seed % 2 else 2 + seed // 6 % 2)
    assert_same(simulated, run)
    assert len(run.log.rows) > 100

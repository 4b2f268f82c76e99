"""Both drivers write the same log where copies and computing slow each other down, and are paid for by the CPU.

What slows them down is modelled by `tests.support.fake_machine` in one driver, and by the engine in the other.
"""

import pytest

from policies.registry import make_policy, policy_names
from sim.hardware.effects import Effects
from tests.support.both_drivers import SLOW, TICK, alike, both
from tests.support.policy_helpers import OUTSIDE
from tests.support.restless import both_at_random
from tests.support.slow_cases import slow_but
from tests.validate.driver.test_one_log import LEARNED

HOST = {"host_bytes_per_s": 1.5e7}  # one and a half links
CPU = {"layer_host_s": 1_000_001 * TICK, "expert_host_s": 300_007 * TICK}
CONTENTION = {"compute_slowdown": 1.3, "copy_slowdown": 1.7}
EFFECTS = {
    "host memory": {"effects": Effects(**HOST)},
    "CPU time": {"effects": Effects(**CPU)},
    "contention": {"effects": Effects(**CONTENTION)},
    "serial demand": {"serial_demand": True},
    "all": {"effects": Effects(**HOST, **CPU, **CONTENTION), "serial_demand": True},
}


@pytest.mark.parametrize(("first", "count"), slow_but([(0, 2), (2, 10)], (0, 2)))
@pytest.mark.parametrize("effect", EFFECTS)
def test_both_drivers_write_the_same_log_under_each_effect_whatever_a_policy_does(
    effect: str, first: int, count: int
) -> None:
    to_the_end = []
    for seed in range(first, first + count):
        replicas = 1 if seed % 2 else 2
        to_the_end.append(alike(*both_at_random(seed, replicas, copy_bytes_per_s=SLOW, **EFFECTS[effect])))
    assert sum(to_the_end) >= count - (count > 2)


def named_under(effect: str, name: str) -> bool:
    given = {"name": name, "gpus": 3, "slots": 9, "copy_bytes_per_s": SLOW, **EFFECTS[effect]}
    return alike(*both(lambda: make_policy(name), **given))


SOME = ["finemoe", "moe-infinity", "promoe", "mixtral-offloading", "deepspeed", "lru"]


NAMED = [*policy_names(), *OUTSIDE, LEARNED]


@pytest.mark.parametrize("name", slow_but(NAMED, "moe-infinity", "promoe", "deepspeed", LEARNED))
def test_both_drivers_write_the_same_log_under_all_effects(name: str) -> None:
    assert named_under("all", name)


@pytest.mark.parametrize("name", slow_but(SOME, "finemoe"))
@pytest.mark.parametrize("effect", [effect for effect in EFFECTS if effect != "all"])
def test_both_drivers_write_the_same_log_under_each_effect(name: str, effect: str) -> None:
    assert named_under(effect, name)

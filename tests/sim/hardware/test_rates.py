"""What policies are told of a machine."""

import pytest

from sim.hardware.costs import rates_of
from sim.hardware.effects import Effects
from tests.support.builders import HandCost, shape


@pytest.mark.parametrize(("tokens", "experts", "on_busiest"), [(1, 2, 1), (2, 4, 2), (5, 6, 3)])
def test_a_layer_takes_cpu_time_for_itself_and_for_every_expert_that_it_launches(tokens, experts, on_busiest):
    """Two GPUs, top-2 of 6: what is launched is each expert once, however many tokens it has."""
    cost = HandCost(dense_s=5.0, expert_s=4.0, exchange_s=2.0)
    cost.effects = Effects(layer_host_s=10.0, expert_host_s=100.0)
    rates = rates_of(cost, shape(1, 6, top_k=2), gpus=2)
    assert rates.layer_s(tokens) == 5 + 4 * on_busiest + 2 + 10 + 100 * experts

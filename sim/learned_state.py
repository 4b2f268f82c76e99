"""Caches what policies learn from their history, so that a policy learns from the same history only once."""

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from typing import Any

import numpy as np

from common.hashing import canonical_json
from policies.types import Learned
from sim.artefacts import Artefacts
from sim.content_hash import has_sources, outside_sources
from sim.inputs import Inputs
from sim.scenario import Scenario
from sim.started_policy import Learning

_RNG = "rng"  # the state of the generator afterwards, as JSON
_LEARNED = "learned "  # prefix of the policy's own names


def learning_from(artefacts: Artefacts, scenario: Scenario, inputs: Inputs) -> Learning | None:
    """How the policy of a scenario learns; None if the history or the policy's code cannot be identified."""
    if not inputs.facts or not has_sources(scenario.policy):
        return None
    facts = {
        "policy": scenario.policy,
        "outside": outside_sources(scenario.policy),
        "model": asdict(inputs.model),
        **inputs.routing_identity,
    }
    return lambda rng: remembered(artefacts, facts, rng)


def remembered(
    artefacts: Artefacts, facts: dict[str, Any], rng: np.random.Generator
) -> Callable[[Callable[[], Learned]], Learned]:
    """A `Setup.learned` that returns what was learned before from the same `facts` and the same state of `rng`.

    The generator then continues as it did before. Calls are counted, to distinguish what two parts of a policy learn.
    """
    calls = count()

    def learned(learn: Callable[[], Learned]) -> Learned:
        def make() -> Learned:
            arrays = {f"{_LEARNED}{name}": array for name, array in learn().items()}
            state = canonical_json(rng.bit_generator.state)
            return {**arrays, _RNG: np.frombuffer(state, np.uint8)}

        key = artefacts.key("learned", {**facts, "call": next(calls), "rng": rng.bit_generator.state})
        arrays = artefacts.made("learned", key, make)
        rng.bit_generator.state = json.loads(arrays[_RNG].tobytes())
        return {name.removeprefix(_LEARNED): array for name, array in arrays.items() if name != _RNG}

    return learned

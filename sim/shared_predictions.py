"""Keeps predictions, so that runs with other caches, machines and evictors reuse them."""

from policies.base import Setting
from policies.registry import is_own, make_policy
from sim.artefacts import Artefacts
from sim.engine.prediction_tape import PredictionTape
from sim.inputs import Inputs
from sim.scenario import Scenario


def prediction_identity(policy: str, *, check: bool = False) -> dict[str, Setting] | None:
    """The part of a policy that its predictions depend on: its prefetcher's class and settings.

    None if they cannot be shared, for example under `check`. Predictions also depend on the requests, their order and
    batch size, the history, the seed, and the model's layers, experts and top-k.
    """
    if check or not is_own(policy):
        return None
    prefetcher = make_policy(policy).prefetcher
    if not prefetcher.shares_predictions:
        return None
    kind = type(prefetcher)
    return {"prefetcher": f"{kind.__module__}:{kind.__qualname__}", **prefetcher.prediction_settings()}


class SharedPredictions:
    """The tape of a run: it replays an earlier run's predictions, or records them for later runs."""

    def __init__(self, artefacts: Artefacts, key: str) -> None:
        self._artefacts = artefacts
        self._key = key
        recorded = artefacts.get("predictions", key)
        self._recording = recorded is None
        self.tape = PredictionTape(recorded)

    @classmethod
    def of(cls, artefacts: Artefacts, scenario: Scenario, inputs: Inputs) -> "SharedPredictions | None":
        """The shared predictions of a scenario; None if its policy shares none or artefacts are not kept."""
        if not artefacts.kept or not inputs.facts:
            return None
        settings = prediction_identity(scenario.policy, check=scenario.check)
        if settings is None:
            return None
        model = inputs.model
        facts = {
            "settings": settings,
            **inputs.routing_identity,
            "batch_size": scenario.batch_size,
            "seed": scenario.seed,
            "shape": [model.layers, model.experts, model.top_k],
        }
        return cls(artefacts, artefacts.key("predictions", facts))

    def keep(self) -> None:
        """Keep the recorded predictions, once the run is over."""
        if self._recording:
            self._artefacts.put("predictions", self._key, self.tape.arrays())

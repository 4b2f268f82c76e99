"""Predictions, kept: one run makes them for all caches, machines and evictors."""

from sim.artefacts import Artefacts
from sim.engine.prediction_tape import PredictionTape, shared_predictions
from sim.inputs import Inputs
from sim.scenario import Scenario


class SharedPredictions:
    """The tape of a run, told what an earlier run predicted, or noting it for later ones."""

    def __init__(self, artefacts: Artefacts, key: str) -> None:
        self._artefacts = artefacts
        self._key = key
        told = artefacts.get("predictions", key)
        self._noting = told is None
        self.tape = PredictionTape(told)

    @classmethod
    def of(cls, artefacts: Artefacts, scenario: Scenario, inputs: Inputs) -> "SharedPredictions | None":
        """Those of a scenario; None if its policy shares none, or there is no place to keep them."""
        if not artefacts.kept or not inputs.facts:
            return None
        settings = shared_predictions(scenario.policy, check=scenario.check)
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
        """Keep what was noted, once the run is over."""
        if self._noting:
            self._artefacts.put("predictions", self._key, self.tape.arrays())

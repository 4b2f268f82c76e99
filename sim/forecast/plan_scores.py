"""How well a prefetcher predicts, apart from time and caches.

A prefetcher is fed the iterations of a trace through its callbacks, as a driver would, by an infinitely fast predictor:
searches are answered, and their answers delivered, at once. The last plan that stood for a layer before its router
spoke is the prediction for that (iteration, layer) event.

| measure | meaning, summed over events before dividing |
|---|---|
| recall | share of the distinct experts that the event executed that were planned |
| precision | share of the planned experts that were executed |
| recall at K | recall of the experts ranked first, as many as were executed: K for one token |
| coverage | share of the events for which something was planned; the others have recall 0 |
| lead | layers from the last one gated, when the plan was made, to the layer that it is for |
| useful, wasted bytes | expert size × planned experts that were executed, and that were not |

Recall at K compares policies whose plans differ in length. The ranking is the prediction's belief, or the weights of
the plan if it states none; ties go to the lowest id.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from common.errors import UserError
from policies.base import Prefetcher
from policies.naming import parts_of
from policies.policy_settings import settings_of
from policies.registry import make_policy, policy_factory
from policies.types import Batch, Future, History, ModelShape, Prefetch, RecordedRequest, Search
from sim.engine.batching import Step, fixed_batches, gates_of
from sim.forecast.tally import Tally, rates

DISTANCE_SETTINGS = ("prefetch_distance", "stride")


@dataclass(frozen=True, slots=True)
class PlanScores:
    """What one policy predicted at one distance."""

    policy: str
    distance: int  # that was set; of a policy whose distance is fixed, the most frequent lead of its plans
    layers: pd.DataFrame  # a row per kind of iteration and layer
    note: str  # what a reader must know of it


def at_distance(spec: str, distance: int) -> str:
    """The policy with its prefetch distance set; unchanged if it has no such setting or the spec states it."""
    first, *evictor = parts_of(spec)
    name, *words = first.split(",")
    settings = settings_of(policy_factory(name), f"policy {name}")
    for setting in DISTANCE_SETTINGS:
        if setting in settings and not any(word.startswith(f"{setting}=") for word in words):
            return "+".join([f"{first},{setting}={distance}", *evictor])
    return spec


def stated_distance(spec: str) -> int | None:
    """The distance that the spec itself states."""
    found = re.search(rf",(?:{'|'.join(DISTANCE_SETTINGS)})=(\d+)", parts_of(spec)[0])
    return int(found[1]) if found else None


def measure(
    spec: str,
    model: ModelShape,
    requests: Iterable[RecordedRequest],
    *,
    history: History | None = None,
    future: Future | None = None,
    batch_size: int = 1,
    seed: int = 0,
) -> PlanScores:
    """What the policy `spec` predicts for `requests`; whatever is random draws from one generator with this seed."""
    prefetcher = make_policy(spec).prefetcher
    if type(prefetcher) is Prefetcher:
        raise UserError(f"policy {spec} predicts nothing, so there is nothing to measure")
    if "future" in prefetcher.requires and future is None:
        raise UserError(f"policy {spec} needs the recorded future")
    prefetcher.start(model, history, future, np.random.default_rng(seed))
    tally = score_plans(prefetcher, model, requests, batch_size)
    distance = stated_distance(spec)
    return PlanScores(
        policy=spec,
        distance=tally.usual_lead() if distance is None else distance,
        layers=tally.frame(),
        note=prefetcher.note,
    )


def score_plans(
    prefetcher: Prefetcher, model: ModelShape, requests: Iterable[RecordedRequest], batch_size: int = 1
) -> Tally:
    """Count what a prefetcher that has been started predicts of `requests`, and what they executed."""
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: at least 1 request is needed")
    forecaster, tally = _Forecaster(prefetcher, model), Tally(model)
    for step in fixed_batches(requests, batch_size):
        tally.add(step, forecaster.iteration(step))
    return tally


class _Forecaster:
    """Tells a prefetcher what happens, and keeps the plan that stands for each layer."""

    def __init__(self, prefetcher: Prefetcher, model: ModelShape) -> None:
        self._prefetcher = prefetcher
        self._layers = model.layers
        self._layer_now = -1
        self._standing: dict[int, tuple[Prefetch, int]] = {}  # with their leads

    def iteration(self, step: Step) -> list[tuple[Prefetch, int] | None]:
        """What stood for each layer of this iteration when its router spoke; None where nothing was planned."""
        prefetcher, batch = self._prefetcher, step.batch
        self._layer_now = -1
        for request in step.starting:
            prefetcher.on_request_start(request)
        self._act(batch, prefetcher.on_batch(batch))
        stood = []
        for gate in gates_of(step):
            self._act(batch, prefetcher.on_layer(batch, gate.layer))
            stood.append(self._standing.pop(gate.layer, None))
            self._layer_now = gate.layer
            self._act(batch, prefetcher.on_gate(batch, gate))
        for _ in prefetcher.on_batch_end(batch, step.maps):
            pass  # what learning costs
        for request in step.ending:
            prefetcher.on_request_end(request)
        return stood

    def _act(self, batch: Batch, actions: Iterable[Prefetch | Search]) -> None:
        """As the engine does, in no time: answer each search when it is asked, deliver the answers afterwards."""
        answered = []
        for action in actions:
            if isinstance(action, Prefetch):
                self._plan(action)
            else:
                answered.append((action, self._prefetcher.search(action)))
        for search, found in answered:
            for plan in self._prefetcher.on_found(batch, self._layer_now, search, found):
                self._plan(plan)

    def _plan(self, plan: Prefetch) -> None:
        """It replaces what stood for its layer; one for a layer that has been gated is for the next iteration."""
        if len(plan.experts):
            lead = plan.layer - self._layer_now
            self._standing[plan.layer] = plan, lead if lead > 0 else lead + self._layers
        else:
            self._standing.pop(plan.layer, None)


def tidy(found: Iterable[tuple[str, PlanScores]], expert_bytes: int) -> pd.DataFrame:
    """A row per (policy, distance, kind of iteration, layer), each policy under the name that stands with it."""
    frames = []
    for policy, forecasts in found:
        names = pd.DataFrame({"policy": policy, "distance": forecasts.distance}, index=forecasts.layers.index)
        frames.append(pd.concat([names, forecasts.layers, rates(forecasts.layers, expert_bytes)], axis=1))
    return pd.concat(frames, ignore_index=True)

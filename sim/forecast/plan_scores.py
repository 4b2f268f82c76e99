"""How well a prefetcher predicts, without time or caches.

A policy gets the iterations of a trace through its hooks, as from a driver. Searches are answered, and their answers
delivered, at once. Its evictor is informed of iterations and demands; nothing is ever resident.

The lead of a plan is the number of layers from the last gated layer, when the plan was made, to the plan's layer. At a
lead k, the prediction for an (iteration, layer) event is the last plan made at least k layers ahead. The first k layers
have no such plans in their own iteration; for them, the last plan before their gate counts.

| measure | meaning, summed over events before dividing |
|---|---|
| recall | share of the distinct executed experts that were planned |
| precision | share of the planned experts that were executed |
| recall at K | recall of the K highest-ranked experts, where K is the number executed |
| coverage | share of the events for which something was planned; the others have recall 0 |
| lead | mean lead of the plans that count |
| useful, wasted bytes | expert size × planned experts that were executed, or were not |

Recall at K compares policies whose plans differ in length. Experts are ranked by the prediction's belief, or by the
plan's weights if it has no belief; ties go to the lowest id.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from common.errors import UserError
from policies.base import Prefetcher
from policies.cache.setup_without_cache import setup_without_cache
from policies.checked_policy import to_run
from policies.hooks import Actions, Hooks
from policies.naming import parts_of
from policies.policy_settings import settings_of
from policies.registry import make_policy, policy_factory
from policies.types import Batch, Future, History, ModelShape, Prefetch, RecordedRequest
from policies.validity import future_for
from sim.engine.batching import Step, fixed_batches, gates_of
from sim.forecast.tally import Tally, moved, rates


class _Made(NamedTuple):
    """A plan, and how many layers ahead it was made."""

    plan: Prefetch
    lead: int


DISTANCE_SETTINGS = ("prefetch_distance", "stride")


@dataclass(frozen=True, slots=True)
class PlanScores:
    """The predictions of one policy, as counts."""

    policy: str
    layers: pd.DataFrame  # a row per distance (a lead), kind of iteration and layer
    charged: bool | None  # whether predicting would take time in a simulation; None if nothing was planned
    note: str  # a warning for readers

    def at(self, distances: Collection[int]) -> "PlanScores":
        """The same at these distances only; unchanged if none of them occurs."""
        some = self.layers[self.layers["distance"].isin(distances)]
        return self if some.empty else replace(self, layers=some)


def at_distance(spec: str, distance: int) -> str:
    """The policy with its prefetch distance set; unchanged if it has no such setting or the spec states it."""
    first, *evictor = parts_of(spec)
    name, *words = first.split(",")
    settings = settings_of(policy_factory(name), f"policy {name}")
    for setting in DISTANCE_SETTINGS:
        if setting in settings and not any(word.startswith(f"{setting}=") for word in words):
            return "+".join([f"{first},{setting}={distance}", *evictor])
    return spec


def measure(
    spec: str,
    model: ModelShape,
    requests: Iterable[RecordedRequest],
    *,
    leads: Collection[int] | None = None,
    history: History | None = None,
    future: Future | None = None,
    batch_size: int = 1,
    seed: int = 0,
    check: bool = False,
) -> PlanScores:
    """Measure what the policy `spec` predicts for `requests`, at the given leads or at every lead for which it plans.

    All random draws come from one generator with this seed. `check` checks every answer of the policy. Raises a
    `UserError` for a policy that predicts nothing.
    """
    policy = make_policy(spec)
    if type(policy.prefetcher) is Prefetcher and not policy.prefetcher.overridden():
        raise UserError(f"policy {spec} predicts nothing, so there is nothing to measure")
    future = future_for(policy, spec, future)
    policy = to_run(policy, spec, check=check)
    hooks = Hooks(policy)
    policy.start(setup_without_cache(model, np.random.default_rng(seed), history=history, future=future))
    tallies, planned = score_plans(hooks, model, requests, batch_size, leads=leads)
    return PlanScores(
        policy=spec,
        layers=pd.concat([tally.frame().assign(distance=lead) for lead, tally in tallies.items()], ignore_index=True),
        charged=hooks.charged if planned else None,
        note=policy.prefetcher.note,
    )


def score_plans(
    hooks: Hooks,
    model: ModelShape,
    requests: Iterable[RecordedRequest],
    batch_size: int = 1,
    *,
    leads: Collection[int] | None = None,
) -> tuple[dict[int, Tally], bool]:
    """Compare the predictions of a started policy with what `requests` executed: a tally for each lead.

    Without `leads`, these are all leads for which something was planned. Also returns whether anything was planned.
    """
    if batch_size < 1:
        raise UserError(f"batch_size: must be at least 1, not {batch_size}")
    forecaster = _Forecaster(hooks, model)
    tallies = {each: Tally(model) for each in (range(1, model.layers + 1) if leads is None else leads)}
    for step in fixed_batches(requests, batch_size):
        made = forecaster.iteration(step)
        for each, tally in tallies.items():
            tally.add(step, [_at(each, layer, plans) for layer, plans in enumerate(made)])
    planned = sorted(forecaster.leads)
    shown = leads if leads is not None else planned or [1]
    return {each: tallies[each] for each in shown}, bool(planned)


def _at(lead: int, layer: int, plans: Sequence[_Made]) -> _Made | None:
    """The plan that counts at a lead, of a layer's plans in order; None if there is none or it is empty."""
    ahead = [made for made in plans if made.lead >= lead] if layer >= lead else plans
    return ahead[-1] if ahead and len(ahead[-1].plan.experts) else None


class _Forecaster:
    """Calls the hooks of a policy, and keeps the plans that it makes for each layer."""

    def __init__(self, hooks: Hooks, model: ModelShape) -> None:
        self.leads: set[int] = set()  # for which something was planned
        self._hooks = hooks
        self._layers = model.layers
        self._layer_now = -1
        self._events = 0
        self._made: dict[int, list[_Made]] = {}  # for each layer, since its last gate

    def iteration(self, step: Step) -> list[Sequence[_Made]]:
        """The plans for each layer of this iteration that were made before its gate."""
        hooks, evictor, batch = self._hooks, self._hooks.policy.evictor, step.batch
        self._layer_now = -1
        evictor.on_batch(batch)
        self._act(batch, hooks.begin_iteration(batch, step.starting))
        made: list[Sequence[_Made]] = []
        for gate in gates_of(step):
            self._act(batch, hooks.begin_layer(batch, gate.layer))
            made.append(self._made.pop(gate.layer, ()))
            self._layer_now = gate.layer
            self._events += 1
            evictor.touched(gate.layer, step.demands[gate.layer], float(self._events))  # events stand for time
            self._act(batch, hooks.gated(batch, gate))
        hooks.end_iteration(batch, step.maps, step.experts, step.ending)
        return made

    def _act(self, batch: Batch, actions: Actions) -> None:
        """As in the engine, but instantaneous: answer each search when it is issued, deliver the answers afterwards."""
        answered = []
        for action in actions:
            if isinstance(action, Prefetch):
                self._plan(action)
            else:
                answered.append((action, self._hooks.search(action)))
        for search, found in answered:
            for plan in self._hooks.found(batch, self._layer_now, search, found):
                self._plan(plan)

    def _plan(self, plan: Prefetch) -> None:
        """Keep a plan; one for a layer that has been gated is for the next iteration."""
        ahead = plan.layer - self._layer_now
        lead = ahead if ahead > 0 else ahead + self._layers
        self._made.setdefault(plan.layer, []).append(_Made(plan, lead))
        if len(plan.experts):
            self.leads.add(lead)


def tidy(found: Iterable[tuple[str, PlanScores]], model: ModelShape) -> pd.DataFrame:
    """A row per (policy, distance, kind of iteration, layer); `found` has each policy's name and scores."""
    frames = []
    for policy, scores in found:
        layers = scores.layers
        names = pd.DataFrame({"policy": policy, "distance": layers["distance"]}, index=layers.index)
        names["prediction_charged"] = pd.Series(scores.charged, index=layers.index, dtype="boolean")
        counts = layers.drop(columns="distance")
        frames.append(pd.concat([names, counts, rates(counts), moved(counts, model)], axis=1))
    return pd.concat(frames, ignore_index=True)

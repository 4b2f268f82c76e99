"""The prediction quality of an experiment: every policy at every distance, on the requests that a run would serve."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from common.errors import FieldError
from common.files import new_file, replacing
from common.parquet import write_frame
from common.progress import bar, counted
from common.threads import one_thread
from policies.registry import make_policy
from sim.experiment import Experiment
from sim.forecast.plan_scores import PlanScores, at_distance, measure, tidy
from sim.forecast.tally import summarise_layers
from sim.inputs import Routing, routing_of
from sim.labels import NOT_CHARGED
from sim.scenario import Scenario
from traces.format.reader import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Prediction quality; `layers` has a row per policy, distance, kind of iteration and layer."""

    trace: Trace
    requests: int
    layers: pd.DataFrame
    notes: Mapping[str, Sequence[str]]
    """Warnings for readers, each with the policies that it applies to."""
    uncharged: Collection[str]
    """Policies that plan without any search: in a simulation, their predictions take no time."""
    settings: Mapping[str, Any]
    """Everything that the rows depend on."""

    def summary(self) -> pd.DataFrame:
        """The sums over layers: a row per policy, distance and kind of iteration."""
        return summarise_layers(self.layers)

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the rows into a Parquet file; raises a `UserError` if it exists, unless `overwrite`."""
        with (replacing if overwrite else new_file)(path, "the predictions") as partial:
            write_frame(partial, self.layers, self.settings)


def distances_of(text: str | None, layers: int) -> list[int]:
    """The prefetch distances in a text such as `3`, `1,2,4` or `1..8`, in rising order; 1 to 8 without a text."""
    if text is None:
        return list(range(1, min(8, layers) + 1))
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= layers:
            raise FieldError("distance", f"{part!r} is neither a number nor a range A..B between 1 and {layers}")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def prediction_quality(experiment: Experiment, distance: str | None = None) -> Quality:
    """Measure what each policy predicts at each distance.

    Machine and cache of the scenarios are not used. A policy with a fixed distance, of its own or from a setting, is
    measured at every lead for which it plans, or only at the requested distances if it plans for any of them.
    """
    scenarios = experiment.scenarios()
    first, *others = scenarios
    routing = routing_of(first, *(other.policy for other in others))
    shape = routing.trace.shape
    distances = distances_of(distance, shape.layers)
    specs: dict[str, tuple[str, int | None]] = {}
    for each in scenarios:
        for one in distances:
            spec = at_distance(each.policy, one)
            specs[spec] = each.policy, None if spec == each.policy else one
    for spec in specs:
        make_policy(spec)  # reports mistakes before the first policy runs
    found = [(policy, _scores(spec, lead, routing, first)) for spec, (policy, lead) in specs.items()]
    if distance is not None:
        found = [(policy, scores.at(distances)) for policy, scores in found]
    return Quality(
        trace=routing.trace,
        requests=len(routing.requests),
        layers=tidy(found, shape),
        notes=_notes(found),
        uncharged={policy for policy, scores in found if scores.charged is False},
        settings={
            "experiment": experiment.to_data(),
            "distances": distances,
            "requests": len(routing.requests),
            "expert_bytes": shape.expert_bytes,
            **routing.facts,
        },
    )


def _scores(spec: str, lead: int | None, routing: Routing, scenario: Scenario) -> PlanScores:
    with one_thread(), bar(spec, len(routing.requests)) as done:
        return measure(
            spec,
            routing.trace.shape,
            counted(routing.requests, done),
            leads=None if lead is None else (lead,),
            history=routing.history,
            future=routing.future,
            batch_size=scenario.batch_size,
            seed=scenario.seed,
            check=scenario.check,
        )


def _notes(found: Sequence[tuple[str, PlanScores]]) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for policy, scores in found:
        for note in (scores.note, f"{NOT_CHARGED.text}; {NOT_CHARGED.note}" if scores.charged is False else ""):
            if note and policy not in notes.setdefault(note, []):
                notes[note].append(policy)
    return notes

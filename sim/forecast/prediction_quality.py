"""Prediction quality of an experiment: every policy at every distance, on the requests that a run would serve."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from common.errors import FieldError
from common.files import replacing
from common.parquet import write_frame
from common.progress import bar, counted
from policies.registry import make_policy
from sim.experiment import Experiment
from sim.forecast.plan_scores import PlanScores, at_distance, measure, tidy
from sim.forecast.tally import summarise_layers
from sim.inputs import check_columns, train_test_split
from traces.format.reader import RecordedFuture, Requests, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """What was predicted: a row of `layers` per policy, distance, kind of iteration and layer."""

    trace: Trace
    requests: int
    layers: pd.DataFrame
    notes: Mapping[str, Sequence[str]]
    """What a reader must know, with the policies that it is of."""
    settings: Mapping[str, Any]
    """Everything that the rows depend on."""

    def summary(self) -> pd.DataFrame:
        """Of the layers together: a row per policy, distance and kind of iteration."""
        return summarise_layers(self.layers, self.trace.shape.expert_bytes)

    def write(self, path: Path) -> None:
        """Put the rows into a Parquet file."""
        with replacing(path, "the predictions") as partial:
            write_frame(partial, self.layers, self.settings)


def distances_of(text: str | None, layers: int) -> list[int]:
    """The prefetch distances that a text such as `3`, `1,2,4` or `1..8` names, in rising order; without it 1 to 8."""
    if text is None:
        return list(range(1, min(8, layers) + 1))
    chosen: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= layers:
            raise FieldError("distance", f"{part!r} is neither a number nor A..B with numbers from 1 to {layers}")
        chosen.update(range(first, last + 1))
    return sorted(chosen)


def predict(experiment: Experiment, distance: str | None = None) -> Quality:
    """Measure what each policy predicts at each distance; of the scenarios only the requests and the policy matter.

    A policy whose distance is fixed, by itself or by a setting, is measured at that.
    """
    scenarios = experiment.scenarios()
    first = scenarios[0]
    trace = Trace.open(first.trace)
    distances = distances_of(distance, trace.shape.layers)
    for each in scenarios:
        columns = trace.meta.embedding, trace.meta.lookahead
        check_columns(each.policy, embedding=columns[0], lookahead=columns[1], where=str(trace.path))
    train, test = train_test_split(trace.request_ids, first, where=str(trace.path))
    policies = [each.policy for each in scenarios]
    found = _forecasts(trace, policies, distances, train, test, batch_size=first.batch_size, seed=first.seed)
    return Quality(
        trace=trace,
        requests=len(test),
        layers=tidy(found, trace.shape.expert_bytes),
        notes=_notes(found),
        settings={
            "trace": trace.path.name,
            "trace_kind": trace.meta.kind,
            "trace_model": trace.shape.name,
            "trace_digest": trace.digest,
            "expert_bytes": trace.shape.expert_bytes,
            "policies": policies,
            "distances": distances,
            "train_split": first.train_split,
            "requests": len(test),
            "batch_size": first.batch_size,
            "seed": first.seed,
        },
    )


def _forecasts(
    trace: Trace,
    policies: Sequence[str],
    distances: Sequence[int],
    train: Sequence[int],
    test: Sequence[int],
    *,
    batch_size: int,
    seed: int,
) -> list[tuple[str, PlanScores]]:
    """What each policy predicts at each distance, under the name that the user gave it."""
    specs = {at_distance(policy, distance): policy for policy in policies for distance in distances}
    for spec in specs:
        make_policy(spec)  # mistakes are reported before the first has run
    history, future = Requests(trace, train), RecordedFuture(trace, test)
    found = []
    for spec, policy in specs.items():
        with threadpool_limits(1), bar(spec, len(test)) as done:  # as in a simulation
            forecasts = measure(
                spec,
                trace.shape,
                counted(trace.iter(test), done),
                history=history,
                future=future,
                batch_size=batch_size,
                seed=seed,
            )
        found.append((policy, forecasts))
    return found


def _notes(found: Sequence[tuple[str, PlanScores]]) -> dict[str, list[str]]:
    notes: dict[str, list[str]] = {}
    for policy, forecasts in found:
        if forecasts.note and policy not in notes.setdefault(forecasts.note, []):
            notes[forecasts.note].append(policy)
    return notes

"""Check that two results can be compared: one simulated, one measured, with equal trace, model and capacities."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from common.errors import UserError
from sim.results.result import Result, read_results, read_summaries
from validate.comparison.errors_by_metric import COUNTS, METRICS

_EQUAL = ("placement", "replicas", "chunk_bytes", "prefetch", "batch_size", "seed", "train_split")  # of the scenarios
_EQUAL_OF_POLICY = ("requests", "expert_slots")  # of the summary


class Folder(NamedTuple):
    """A folder of results: a row of `summary` per policy, and the runs."""

    path: Path
    summary: pd.DataFrame
    results: Sequence[Result]

    @classmethod
    def read(cls, path: Path) -> "Folder":
        """What `sim run --out` or `validate replay --out` wrote."""
        return cls(path, read_summaries(path), read_results(path))

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What all its runs have in common."""
        return self.results[0].provenance


def match(simulated: Folder, measured: Folder) -> None:
    """A `UserError` unless these are a simulation and a measurement of the same requests, model and capacities."""
    for folder, expected, place in ((simulated, True, "first"), (measured, False, "second")):
        if any(result.summary["simulated"] != expected for result in folder.results):
            kinds = ("simulated", "measured") if expected else ("measured", "simulated")
            raise UserError(f"{folder.path} has {kinds[1]} results; the {place} folder must have {kinds[0]} ones")
        for metric in (*METRICS, *COUNTS):
            if metric.column not in folder.summary:
                how = "`finemoe sim run` and `compare_policies` write it" if expected else "repeat the run"
                raise UserError(f"{folder.path}: its summary has no column {metric.column}; {how}")
    for field, one, other in _pairs(simulated, measured):
        if one != other:
            raise UserError(
                f"{field} differs: {one} in {simulated.path}, {other} in {measured.path}; "
                "only runs with equal settings can be compared"
            )


def _pairs(simulated: Folder, measured: Folder) -> Iterator[tuple[str, Any, Any]]:
    """The name and the two values of everything that must be equal."""
    one, other = simulated.provenance, measured.provenance
    yield "trace digest", one["trace"]["digest"], other["trace"]["digest"]
    yield "cache_experts", one["cache_experts"], other["cache_experts"]
    yield "gpus", one["machine"]["gpus"], other["machine"]["gpus"]
    # Older results lack it: loading was always parallel then.
    yield "demand_loading", *(each["machine"].get("demand_loading", "parallel") for each in (one, other))
    here, there = simulated.results[0].scenario, measured.results[0].scenario
    for field in _EQUAL:
        yield field, getattr(here, field), getattr(there, field)
    for field, size in one["model"].items():
        if field != "name":
            yield f"model {field}", size, other["model"].get(field)
    rows, others = simulated.summary.set_index("policy"), measured.summary.set_index("policy")
    common = [policy for policy in rows.index if policy in others.index]
    if not common:
        raise UserError(
            f"no policy is in both: {', '.join(rows.index)} in {simulated.path}, "
            f"{', '.join(others.index)} in {measured.path}"
        )
    for field in _EQUAL_OF_POLICY:
        for policy in common:
            yield f"{field} of {policy}", rows.at[policy, field], others.at[policy, field]

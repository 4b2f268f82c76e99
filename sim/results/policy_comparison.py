"""Results beside the runs that they are measured against: every expert resident, and all demands known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.results.result import Result, write_results
from sim.results.summary import Summary, ratio
from sim.scenario import Detail, Scenario
from sim.trace_naturalness import trace_columns

RESIDENT = "no-offload"
BEST = "clairvoyant"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyComparison:
    """Results on even terms, and the runs that they are measured against."""

    results: Sequence[Result]
    resident: Result | None
    """With every expert on its GPU; None if nobody asked for it, as below."""
    best: Result | None
    """By a policy that knows every future demand."""
    least_makespan_s: float | None
    """The least that any policy can take with this cache; None too where times are measured."""

    def summaries(self) -> list[Summary]:
        """The figures of each result, and how they compare."""
        return [self._compared(result) for result in self.results]

    def write(self, folder: Path) -> None:
        """Put the results and how they compare into a new folder, which appears whole or not at all."""
        write_results(folder, self.results, self.summaries())

    def _compared(self, result: Result) -> Summary:
        own = result.summary
        least_s = self.least_makespan_s
        return own | {
            "tpot_over_no_offload": _tpot_over(own, self.resident),
            "tpot_over_clairvoyant": _tpot_over(own, self.best),
            "makespan_lower_bound_s": own["makespan_s"] if own["preloaded"] and least_s is not None else least_s,
            **trace_columns(result.provenance["trace"]),
        }


def _tpot_over(own: Summary, other: Result | None) -> float | None:
    return ratio(own["tpot_s_mean"], other.summary["tpot_s_mean"]) if other else None


def with_references(scenarios: Sequence[Scenario]) -> list[Scenario]:
    """The scenarios, which differ in their policy alone, and those that they are measured against.

    All keep at least iterations, from which bounds are computed.
    """
    detail: Detail = "events" if scenarios[0].detail == "events" else "iterations"
    policies = dict.fromkeys([*(scenario.policy for scenario in scenarios), BEST, RESIDENT])
    return [replace(scenarios[0], policy=policy, detail=detail, label=None) for policy in policies]


def comparison_of(
    scenarios: Sequence[Scenario], results: Mapping[str, Result], *, least_makespan_s: float | None
) -> PolicyComparison:
    """The results of the scenarios, in the detail that they ask for, out of all by their policy."""
    return PolicyComparison(
        results=[results[scenario.policy].trimmed(scenario) for scenario in scenarios],
        resident=results.get(RESIDENT),
        best=results.get(BEST),
        least_makespan_s=least_makespan_s,
    )

"""Results beside the runs that they are measured against: every expert resident, and all demands known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sim.results.result import Result, write_results
from sim.results.summary import Summary, ratio
from sim.scenario import Detail, Scenario

RESIDENT = "no-offload"
BEST = "clairvoyant"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyComparison:
    """Results on even terms, and the runs that they are measured against."""

    results: Sequence[Result]
    resident: Result
    """With every expert on its GPU."""
    best: Result
    """By a policy that knows every future demand."""
    least_makespan_s: float | None
    """The least that any policy can take with this cache; None where times are measured."""

    def summaries(self) -> list[Summary]:
        """The figures of each result, and how they compare."""
        return [self._compared(result) for result in self.results]

    def write(self, folder: Path) -> None:
        """Put the results and how they compare into a new folder, which appears whole or not at all."""
        write_results(folder, self.results, self.summaries())

    def _compared(self, result: Result) -> Summary:
        own, resident, best = result.summary, self.resident.summary, self.best.summary
        least_s = self.least_makespan_s
        if least_s is not None and own["preloaded"]:
            least_s = resident["makespan_s"]
        return own | {
            "tpot_over_no_offload": ratio(own["tpot_s_mean"], resident["tpot_s_mean"]),
            "tpot_over_clairvoyant": ratio(own["tpot_s_mean"], best["tpot_s_mean"]),
            "makespan_lower_bound_s": least_s,
            "trace_kind": result.provenance["trace"]["kind"],
        }


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
    """The results of the scenarios, in the detail that they ask for, by policy out of those `with_references`."""
    return PolicyComparison(
        results=[results[scenario.policy].trimmed(scenario) for scenario in scenarios],
        resident=results[RESIDENT],
        best=results[BEST],
        least_makespan_s=least_makespan_s,
    )

"""Results compared with reference runs: with every expert resident, or with all demands known."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from sim.hardware.origins import origins_text
from sim.results.result import Result, write_results
from sim.results.summary import Summary, ratio
from sim.scenario import Scenario
from sim.trace_naturalness import trace_columns

RESIDENT = "no-offload"
ROUNDING = 1e-9  # relative error of sums of times


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyComparison:
    """Results on the same requests, and the reference runs to compare them with.

    A reference that was not requested is None or empty.
    """

    results: Sequence[Result]
    resident: Result | None
    """The run with every expert on its GPU."""
    best_known: Sequence[Result]
    """The fastest of the runs that know all future demands; several if equal."""
    know_all: Sequence[str]
    """The policies that `best_known` was chosen from."""
    own_caches: Mapping[str, Result]
    """For each policy, a run of its own cache without prefetching; not for policies that copy on demand anyway."""
    least_makespan_s: float | None
    """A lower bound of the makespan of any policy with this cache; None also if times are measured."""

    def summaries(self) -> list[Summary]:
        """The figures of each result, with comparisons."""
        return [self._compared(result) for result in self.results]

    def write(self, folder: Path | str, *, overwrite: bool = False) -> None:
        """Write results and comparisons into a folder, which appears whole or not at all."""
        facts = {"best_known": {"policy": self._best_known(), "of": list(self.know_all)}}
        write_results(Path(folder), self.results, self.summaries(), facts=facts, overwrite=overwrite)

    def _best_known(self) -> str | None:
        return names_of([run.summary for run in self.best_known])

    def _compared(self, result: Result) -> Summary:
        own = result.summary
        least_s = self.least_makespan_s
        cache = self.own_caches.get(own["policy"])
        return own | {
            "tpot_over_no_offload": _tpot_over(own, self.resident),
            "tpot_over_best_known": _tpot_over(own, self.best_known[0] if self.best_known else None),
            "best_known": self._best_known(),
            **beside_own_cache(own, cache.summary if cache else None),
            "makespan_lower_bound_s": own["makespan_s"] if own["preloaded"] and least_s is not None else least_s,
            "costs": origins_text(result.provenance["machine"]["origins"]),
            **trace_columns(result.provenance["trace"]),
        }


def _tpot_over(own: Summary, other: Result | None) -> float | None:
    return ratio(own["tpot_s_mean"], other.summary["tpot_s_mean"]) if other else None


def _check_bound(own: Summary, least_makespan_s: float | None) -> None:
    if least_makespan_s is not None and not own["preloaded"] and own["makespan_s"] < least_makespan_s * (1 - ROUNDING):
        raise UserError(
            f"policy {own['policy']}: makespan_s {own['makespan_s']!r} is below the lower bound {least_makespan_s!r}, "
            "which is impossible; please report this error in the simulator"
        )


def beside_own_cache(own: Mapping[str, Any], cache: Summary | None) -> Summary:
    """Compare a run with its own cache without prefetching; `prefetching_pays` if a token takes no longer."""
    times = ("tpot", "ttft")
    found: Summary = {f"own_cache_{each}_s_mean": cache[f"{each}_s_mean"] if cache else None for each in times}
    over = ratio(own["tpot_s_mean"], found["own_cache_tpot_s_mean"])
    return found | {"prefetching_pays": None if over is None else over <= 1}


def fastest(summaries: Iterable[Summary]) -> list[Summary]:
    """The summaries with the lowest mean TPOT, several if equal; none without any TPOT."""
    timed = [each for each in summaries if each["tpot_s_mean"] is not None]
    least_s = min((each["tpot_s_mean"] for each in timed), default=None)
    return [each for each in timed if each["tpot_s_mean"] == least_s]


def names_of(summaries: Sequence[Summary]) -> str | None:
    """The policies of runs that tie, as text; None without runs."""
    return " = ".join(each["policy"] for each in summaries) or None


def comparison_of(
    scenarios: Sequence[Scenario],
    results: Mapping[str, Result],
    *,
    know_all: Mapping[str, Result] | None = None,
    own_caches: Mapping[str, Result] | None = None,
    least_makespan_s: float | None,
) -> PolicyComparison:
    """Compare the results of the scenarios, chosen from `results` by policy, each in its scenario's detail.

    `know_all` and `own_caches` are reference runs by policy, as in `PolicyComparison`. Raises a `UserError` if a run is
    faster than the lower bound, because then one of the two is wrong.
    """
    for scenario in scenarios:
        _check_bound(results[scenario.policy].summary, least_makespan_s)
    know_all = know_all or {}
    best = {each["policy"] for each in fastest(each.summary for each in know_all.values())}
    return PolicyComparison(
        results=[results[scenario.policy].trimmed(scenario) for scenario in scenarios],
        resident=results.get(RESIDENT),
        best_known=[know_all[policy] for policy in know_all if policy in best],
        know_all=list(know_all),
        own_caches=own_caches or {},
        least_makespan_s=least_makespan_s,
    )

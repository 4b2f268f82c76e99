"""Runs the policies of one experiment and their reference runs, for a comparison."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import FieldError
from sim.artefacts import NOTHING_KEPT, Artefacts
from sim.content_hash import RunKeys, key_of
from sim.experiment import Experiment
from sim.inputs import Inputs, Resolver
from sim.results.bounds import makespan_lower_bound_s
from sim.results.policy_comparison import RESIDENT, PolicyComparison, comparison_of
from sim.results.result import Result
from sim.scenario import Scenario
from sim.simulation import simulate
from sim.store.result_store import ResultStore
from sim.sweeps.reference_runs import EVERY_BOUND, Reference, reference_runs
from sim.sweeps.run_task import at_folder
from sim.sweeps.workers import Workers

WORTH_A_PROCESS = 20_000  # tokens over all runs: fewer take seconds, and starting a process takes about one


def compare_policies(
    experiment: Experiment,
    *,
    references: Collection[Reference] = EVERY_BOUND,
    store: Path | str | None = None,
    workers: Workers | None = None,
) -> PolicyComparison:
    """Simulate each policy of an experiment, and the reference runs.

    With a `store`, stored runs are not computed again, and new runs are stored. Without `workers`, runs use all
    processors of this machine if there is enough work.
    """
    if "regret" in references:
        raise FieldError("references", "regret is available in sweeps only")
    scenarios = experiment.scenarios()
    first, *others = scenarios
    runs = _Runs(ResultStore.open(store) if store else None)
    inputs = runs.resolved(first, *(other.policy for other in others))  # reports mistakes before the first run
    wanted = {scenario.policy: scenario for scenario in scenarios}
    shared = reference_runs(first, inputs, references)
    known = {each.policy: each for each in shared.get("best_known", ())}
    if first.prefetch:  # otherwise the requested run of such a policy differs from the reference run
        known |= {policy: wanted[policy] for policy in known if policy in wanted}
    for everything_there in shared.get("no_offload", ()):
        wanted[RESIDENT] = replace(wanted.get(RESIDENT, everything_there), detail=everything_there.detail)
    chosen = {each.policy: reference_runs(each, inputs, references) for each in scenarios}
    own = {policy: cache for policy, runs_of in chosen.items() for cache in runs_of.get("own_cache", ())}
    every = list(dict.fromkeys([*wanted.values(), *known.values(), *own.values()]))
    found = runs.results(every, workers or _workers_for(inputs, len(every)))
    results = {policy: found[scenario] for policy, scenario in wanted.items()}
    all_known, own_caches = ({policy: found[each] for policy, each in some.items()} for some in (known, own))
    least_s = runs.lower_bound_s(first, results[RESIDENT]) if "lower-bound" in references else None
    return comparison_of(scenarios, results, know_all=all_known, own_caches=own_caches, least_makespan_s=least_s)


class _Runs:
    """Runs on the same inputs, read from a store if it has them."""

    def __init__(self, store: ResultStore | None) -> None:
        self._store = store
        self._keys = RunKeys()
        self._artefacts = NOTHING_KEPT
        if store:
            store.check_writable()
            self._artefacts = store.artefacts(self._keys.code)

    def resolved(self, scenario: Scenario, *others: str) -> Inputs:
        self._inputs = Resolver(self._artefacts).resolve(scenario, *others)
        return self._inputs

    def results(self, scenarios: Sequence[Scenario], workers: Workers) -> dict[Scenario, Result]:
        found = {scenario: result for scenario in scenarios if (result := self._stored(scenario))}
        missing = [scenario for scenario in scenarios if scenario not in found]
        if not all(self._keys.of(scenario, self._inputs) for scenario in missing):
            workers = replace(workers, jobs=1, backend="loky")  # other processes cannot import this script's policy
        alone = workers.processes(len(missing)) == 1 if missing else True
        calls = [
            (place, Path.cwd(), self._widened(scenario), self._inputs, self._artefacts, not alone)
            for place, scenario in enumerate(missing)
        ]
        for place, result in workers.each(_simulated, calls):
            found[missing[place]] = result.trimmed(missing[place])
            self._keep(result)
        return found

    def lower_bound_s(self, scenario: Scenario, everything_there: Result) -> float:
        facts = self._keys.bound_facts(scenario, self._inputs)
        key = key_of(facts)
        if self._store and (known_s := self._store.bound_s(key)) is not None:
            return known_s
        assert everything_there.iterations is not None
        end_s = everything_there.iterations["end_s"].to_numpy()
        least_s = makespan_lower_bound_s(scenario, self._inputs, end_s)
        if self._store:
            self._store.put_bound(key, least_s, facts)
        return least_s

    def _stored(self, scenario: Scenario) -> Result | None:
        key = self._keys.of(scenario, self._inputs)
        return self._store.find(key, scenario, self._inputs) if self._store and key else None

    def _widened(self, scenario: Scenario) -> Scenario:
        key = self._keys.of(scenario, self._inputs)
        return self._store.widened(key, scenario) if self._store and key else scenario

    def _keep(self, result: Result) -> None:
        facts = self._keys.facts(result.scenario, self._inputs)
        if self._store and facts:
            self._store.put(key_of(facts), result, facts)


def _simulated(
    place: int, folder: Path, scenario: Scenario, inputs: Inputs, artefacts: Artefacts, quiet: bool
) -> tuple[int, Result]:
    with at_folder(folder):
        return place, simulate(scenario, inputs, artefacts=artefacts, quiet=quiet)


def _workers_for(inputs: Inputs, runs: int) -> Workers:
    """Parallel processes only if the runs take longer than starting these."""
    return Workers(jobs=1 if inputs.tokens * runs < WORTH_A_PROCESS else None)

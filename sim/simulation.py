"""Run scenarios: modelled time passes between the decisions of their policies."""

from threadpoolctl import threadpool_limits

from common.progress import bar, counted
from sim.content_hash import content_hash
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from sim.experiment import Experiment
from sim.hardware.costs import rates_of
from sim.inputs import Inputs, resolve
from sim.results.bounds import makespan_lower_bound_s
from sim.results.policy_comparison import RESIDENT, PolicyComparison, comparison_of, with_references
from sim.results.result import Result
from sim.scenario import Scenario
from sim.started_policy import Outcome, StartedPolicy


def simulate(scenario: Scenario, inputs: Inputs | None = None) -> Result:
    """Simulate a scenario. `inputs` are what `resolve` gives for it, where they have been read already.

    Every mistake in the scenario is a `UserError` of one line.
    """
    inputs = resolve(scenario) if inputs is None else inputs
    key = content_hash(scenario, inputs)
    return Result.of(scenario, inputs, simulated_run(scenario, inputs), content_hash=key)


def compare_policies(experiment: Experiment) -> PolicyComparison:
    """Simulate each scenario of an experiment, and the runs that they are measured against."""
    scenarios = experiment.scenarios()
    first, *others = scenarios
    inputs = resolve(first, *(other.policy for other in others))  # mistakes are reported before the first has run
    results = {each.policy: simulate(each, inputs) for each in with_references(scenarios)}
    resident = results[RESIDENT].iterations
    assert resident is not None
    least_s = makespan_lower_bound_s(first, inputs, resident["end_s"].to_numpy())
    return comparison_of(scenarios, results, least_makespan_s=least_s)


def simulated_run(scenario: Scenario, inputs: Inputs) -> Outcome:
    """Let the SimPy driver serve the requests of `inputs`.

    Linear algebra gets one thread: the last bits of a sum depend on how many share it, and a search may hang on them.
    """
    recorder = Recorder()
    with threadpool_limits(1), bar(scenario.name, len(inputs.requests)) as done:
        cost = inputs.machine.cost(inputs.model)
        started = StartedPolicy(scenario, inputs, rates_of(cost, inputs.model, inputs.machine.gpus))
        makespan_s = Engine(
            hooks=started.hooks,
            cache=started.cache,
            cost=cost,
            steps=fixed_batches(counted(inputs.requests, done), scenario.batch_size),
            recorder=recorder,
        ).run()
    return started.outcome(recorder, makespan_s, simulated=True)

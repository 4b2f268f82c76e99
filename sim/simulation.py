"""Runs scenarios: modelled time passes between the decisions of their policies."""

from collections.abc import Callable

from common.progress import bar, counted
from common.threads import one_thread
from sim.artefacts import Artefacts
from sim.content_hash import RunKeys
from sim.engine.batching import fixed_batches
from sim.engine.contended_engine import engine_for
from sim.engine.prediction_tape import PredictionTape
from sim.engine.recorder import Recorder
from sim.hardware.costs import rates_of
from sim.inputs import Inputs, resolve
from sim.learned_state import learning_from
from sim.results.result import Result
from sim.scenario import Scenario
from sim.shared_predictions import SharedPredictions
from sim.started_policy import Learning, Outcome, StartedPolicy


def simulate(
    scenario: Scenario,
    inputs: Inputs | None = None,
    *,
    keys: RunKeys | None = None,
    artefacts: Artefacts | None = None,
    quiet: bool = False,
) -> Result:
    """Simulate a scenario, and return its result.

    Pass existing `inputs` and `keys` to avoid reading files and code again; `artefacts` hold what other runs have
    learned and predicted. A progress bar is shown unless `quiet`. Raises a `UserError` for a mistake in the scenario.
    """
    inputs = resolve(scenario) if inputs is None else inputs
    key = (keys or RunKeys()).of(scenario, inputs)
    learning = learning_from(artefacts, scenario, inputs) if artefacts else None
    shared = SharedPredictions.of(artefacts, scenario, inputs) if artefacts else None
    with bar(scenario.name, len(inputs.requests), quiet=quiet) as done:
        run = simulated_run(scenario, inputs, learning=learning, tape=shared.tape if shared else None, done=done)
    if shared:
        shared.keep()
    return Result.of(scenario, inputs, run, content_hash=key)


def simulated_run(
    scenario: Scenario,
    inputs: Inputs,
    *,
    learning: Learning | None = None,
    tape: PredictionTape | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> Outcome:
    """Serve the requests of `inputs` with the SimPy driver; `done` is called with the number of newly served ones.

    `learning` may return what was learned before; a tape records or replays predictions. Neither changes the outcome.
    """
    recorder = Recorder()
    with one_thread():
        cost = inputs.machine.cost(inputs.model)
        rates = rates_of(cost, inputs.model, inputs.machine.gpus)
        started = StartedPolicy(scenario, inputs, rates, learning, tape)
        makespan_s = engine_for(cost)(
            hooks=started.hooks,
            cache=started.cache,
            cost=cost,
            steps=fixed_batches(counted(inputs.requests, done), scenario.batch_size),
            recorder=recorder,
            tape=tape,
        ).run()
    return started.outcome(recorder, makespan_s, simulated=True)

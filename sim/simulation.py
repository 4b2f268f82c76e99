"""Run scenarios: modelled time passes between the decisions of their policies."""

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
    """Simulate a scenario.

    `inputs` and `keys`, where they are there already, save reading files and code again; `artefacts` are what other
    runs have learned and predicted. Every mistake in the scenario is a `UserError` of one line. A bar shows progress
    unless it is to be `quiet`.
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
    """Let the SimPy driver serve the requests of `inputs`; `done` is called with the number of newly served ones.

    The outcome is the same with `learning` from what was kept, and with a tape, which records or replays predictions.
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

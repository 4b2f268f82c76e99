"""Run a model with its experts really offloaded, and measure it: the same result as a simulation of the scenario.

First the resident model runs all prompts. That yields the routing from which policies learn, and the outputs that every
replay must equal. Then its experts move to a record file, and each policy serves the prompts that it has not seen.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.errors import FieldError
from common.progress import bar
from policies.cache.placement import check_replicas
from policies.registry import make_policy
from policies.types import ModelShape, Rates
from sim.experiment import Experiment
from sim.hardware.costs import rates_of
from sim.hardware.effects import DemandLoading
from sim.hardware.machine import Machine
from sim.hardware.profile import Profile, devices, read_profile
from sim.inputs import Inputs, check_columns, check_size, facts_of, train_test_split
from sim.results.policy_comparison import RESIDENT, PolicyComparison, comparison_of
from sim.results.result import Result
from sim.scenario import Scenario
from traces.capture.capture_settings import CollectSettings
from traces.capture.collection import check_lookahead
from traces.capture.generation import TokenizedPrompt, generation_config
from traces.capture.model_structure import moe_blocks, shape_of
from traces.capture.prompt_tokens import tokenized
from traces.format.reader import RecordedFuture, Requests
from traces.format.target import check_target
from traces.prompts.prompt_sets import PromptSet
from validate.measurement import measured_run
from validate.offload.arena import devices_of
from validate.offload.records import layout_of
from validate.offload.resident_model import require_equal, resident_run
from validate.testbed import Testbed, devices_as_machine, load_model, open_testbed
from validate.testbed_settings import TestbedSettings

SIMULATED_ONLY = ("sizes", "history", "counts")  # fields of a scenario that a real run sets itself


def replay(
    experiment: Experiment,
    chosen: TestbedSettings,
    collection: CollectSettings,
    prompts: PromptSet,
    *,
    profile: Path | None = None,
    demand_loading: DemandLoading = "parallel",
) -> PolicyComparison:
    """Measure each scenario of the experiment, and `no-offload` as the reference.

    The resident model runs the `prompts`, and its routing is recorded as set in `collection`; that is the trace of the
    scenarios. Their machine is replaced by the devices, to which demanded experts are copied as set in
    `demand_loading`. The file of a `profile` tells policies how long things take. A `UserError` names the first token
    or logits in which a replay differs from the resident model.
    """
    for field in SIMULATED_ONLY:
        if getattr(experiment.scenario, field) is not None:
            raise FieldError(field, "cannot be set in a real run")
    for each in experiment.scenarios():
        make_policy(each.policy)  # mistakes are reported before the model is loaded
    check_target(collection.target)
    calibrated = read_profile(profile) if profile else None
    loaded = load_model(chosen)
    devices_of(chosen.device, chosen.devices)
    layout_of(moe_blocks(loaded.model))  # a model that cannot be offloaded is refused before anything runs
    machine = devices_as_machine(chosen, demand_loading)
    scenarios = [replace(each, machine=machine.name) for each in experiment.scenarios()]
    first = scenarios[0]
    shape = shape_of(loaded.model, name=loaded.name)
    lookahead = collection.recording.lookahead
    check_lookahead(lookahead, loaded)
    _check(scenarios, shape, machine, lookahead)
    rates = _rates_of(calibrated, shape, machine.gpus) if calibrated else None
    requests = tokenized(prompts.prompts, loaded, collection.lengths, where=prompts.where)
    train, test = train_test_split(range(len(requests)), first, where=prompts.where)
    beyond = sorted({*range(len(requests))} - {*train, *test})  # recorded too, or the trace would be split differently
    history, batches, others = (_batches(requests, some, first.batch_size) for some in (train, test, beyond))

    lengths = collection.lengths
    config = generation_config(loaded, max_new_tokens=lengths.new_tokens, exactly=lengths.exactly)
    with bar("resident model", len(requests)) as done:
        every = [*history, *batches, *others]
        trace, expected = resident_run(loaded, every, config, collection, prompts=prompts.name, done=done)
    inputs = Inputs(
        model=shape,
        machine=machine,
        requests=Requests(trace, test),
        history=Requests(trace, train),
        future=RecordedFuture(trace, test),
        facts={**facts_of(trace), "profile_digest": calibrated and calibrated.digest},
    )

    def measured(scenario: Scenario, testbed: Testbed) -> Result:
        with bar(scenario.name, len(test)) as done:
            run, outputs = measured_run(scenario, inputs, testbed, batches, config, rates=rates, done=done)
        equal = require_equal(scenario.policy, expected, outputs)
        result = Result.of(scenario, inputs, run)
        return replace(result, summary={**result.summary, **equal})

    with open_testbed(chosen, loaded, lookahead=lookahead) as testbed:
        runs = {each.policy: each for each in [replace(first, policy=RESIDENT, label=None), *scenarios]}
        results = {policy: measured(each, testbed) for policy, each in runs.items()}
    return comparison_of(scenarios, results, least_makespan_s=None)


def _rates_of(profile: Profile, shape: ModelShape, gpus: int) -> Rates:
    """The rates of the calibrated machine for policies; it must have as many devices as this one."""
    if profile.gpus != gpus:
        raise FieldError("profile", f"was measured with {devices(profile.gpus)}, but this run has {devices(gpus)}")
    return rates_of(profile.cost(shape), shape, gpus)


def _check(scenarios: Sequence[Scenario], shape: ModelShape, machine: Machine, lookahead: Sequence[int]) -> None:
    """Refuse what cannot run before spending time on the resident model."""
    check_size(scenarios[0].cache, shape, machine, None)
    check_replicas(scenarios[0].replicas, machine.gpus)
    for scenario in scenarios:
        check_columns(scenario.policy, embedding=True, lookahead=lookahead, where="a replay without `lookahead`")


def _batches(requests: Sequence[TokenizedPrompt], ids: Sequence[int], size: int) -> list[list[TokenizedPrompt]]:
    """Groups of `size` requests, in order, as the simulator runs them."""
    return [[requests[number] for number in ids[start : start + size]] for start in range(0, len(ids), size)]

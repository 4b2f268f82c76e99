"""`finemoe validate replay`: run a model with its experts really offloaded, and measure it."""

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from common.applications import MODEL, OUTPUT, OVERWRITE, PROMPTS, under
from common.errors import FieldError
from common.settings import check_suffix
from policies.registry import make_policy
from sim.experiment import Experiment
from sim.hardware.effects import DemandLoading
from sim.scenario_options import FIELDS, MACHINE, takes_scenario
from traces.capture.capture_settings import CollectSettings, Generation, Lengths, PlacedModel, Recording
from traces.format.target import TraceTarget, trace_folder
from traces.pocket import DEMO_PROMPTS
from traces.pocket.recipe import RECIPES
from traces.prompts.prompt_sets import ALL_PROMPTS, PromptChoice, read_chosen
from validate.testbed_settings import TestbedSettings

GENERATION = Group("Generation", sort_key=30)

_NEW_TOKENS = 48
_SIMULATED = ("trace", "machine", "sizes", "history", "counts")  # fields that a real run sets itself


@takes_scenario(*(field for field in FIELDS if field not in _SIMULATED), recorded_by="record")
def replay(
    experiment: Experiment,
    testbed: Annotated[TestbedSettings, under(MODEL)],
    *,
    prompts: Annotated[str | None, Parameter(group=PROMPTS)] = None,
    choice: Annotated[PromptChoice, under(PROMPTS)] = ALL_PROMPTS,
    lengths: Annotated[Lengths, under(GENERATION)] = Lengths(),
    lookahead: Annotated[tuple[int, ...], Parameter(group=GENERATION)] = (),
    profile: Annotated[Path | None, Parameter(group=MACHINE)] = None,
    demand_loading: Annotated[DemandLoading, Parameter(group=MACHINE)] = "parallel",
    record: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    overwrite: Annotated[bool, OVERWRITE] = False,
    out: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    json: Annotated[bool, Parameter(group=OUTPUT)] = False,
    wide: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> None:
    """Run a model with its experts really offloaded, and measure policies on prompts that they have not seen.

    The model first runs with all experts resident on the same prompts. Policies learn from that routing, and every
    token and logit of the offloaded model must equal the resident model's bit for bit. The run uses this machine; the
    trace and machine of a scenario file are ignored.

    Parameters
    ----------
    prompts
        A prompt set, such as built-in or lmsys-chat-1m (`finemoe traces prompts` lists them), a file or a folder.
        Required, except for models shipped with the project.
    lookahead
        Also apply the router of layer l+D to the input of router l, for each distance D, e.g. 1,3. Some policies
        require it.
    profile
        Profile of this machine, FILE.toml from `finemoe validate calibrate`. Policies estimate times with it.
    demand_loading
        Copy demanded experts over all links at once, or one after the other.
    record
        Write the routing as a trace for `finemoe sim run`: a folder NAME.trace.
    out
        Write the results as Parquet tables into this new folder.
    json
        Print a JSON list of objects, one per policy.
    wide
        Print all columns, in lines of any width.
    """
    from common.files import scratch_folder
    from common.outputs import folder, reserved, then_printed
    from sim.results.report import report
    from sim.results.result import RESULT_FILES
    from traces.format.trace_files import copy_trace

    check_suffix("record", record, ".trace")
    if prompts is None and testbed.model not in RECIPES:
        raise FieldError("prompts", f"is required for {testbed.model}: only the models of this project have their own")
    scenario = experiment.scenario
    with reserved(folder(out, RESULT_FILES), trace_folder(record), overwrite=overwrite):
        found = read_chosen(str(DEMO_PROMPTS) if prompts is None else prompts, choice, seed=scenario.seed)
        for each in experiment.scenarios():
            make_policy(each.policy)  # a mistake is reported before torch is imported
        from validate.replay import replay as measure

        with scratch_folder() as scratch:
            routing = scratch / (record.name if record else "routing.trace")
            collection = CollectSettings(
                model=PlacedModel(testbed.model, revision=testbed.revision, dtype=testbed.dtype, device=testbed.device),
                lengths=lengths.or_at_most(_NEW_TOKENS),
                generation=Generation(batch_size=scenario.batch_size, seed=scenario.seed),
                recording=Recording(lookahead=lookahead),
                target=TraceTarget(out=routing),
            )
            comparison = measure(experiment, testbed, collection, found, profile=profile, demand_loading=demand_loading)

            def printed() -> str:
                return json_text.dumps(comparison.summaries(), indent=2) if json else report(comparison, wide=wide)

            with then_printed(printed, out, record, quiet=json):
                if record:  # only now, since a policy may have failed
                    copy_trace(routing, record, overwrite=overwrite)
                if out:
                    comparison.write(out, overwrite=overwrite)

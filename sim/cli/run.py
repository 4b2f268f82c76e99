"""`python -m sim run`: compare policies on a trace."""

import json as json_text
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.commands import OUTPUT
from sim.experiment import Experiment
from sim.scenario_options import FIELDS, takes_scenario


@takes_scenario(*FIELDS)
def run(
    experiment: Experiment,
    *,
    out: Annotated[
        Path | None, Parameter(group=OUTPUT, help="Write tidy Parquet results into this new folder.")
    ] = None,
    json: Annotated[bool, Parameter(group=OUTPUT, help="Print a list of objects, one per policy.")] = False,
) -> None:
    """Simulate policies on the requests of a trace, and compare them."""
    from common.files import refuse_existing
    from sim.results.report import report
    from sim.simulation import compare_policies

    if out:
        refuse_existing(out)
    comparison = compare_policies(experiment)
    if out:
        comparison.write(out)
    print(json_text.dumps(comparison.summaries(), indent=2) if json else report(comparison))

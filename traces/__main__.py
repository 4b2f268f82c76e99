"""`finemoe traces COMMAND`: collect, describe, check, analyse, convert and generate traces."""

from collections.abc import Sequence

from common.console import PACKAGES
from common.interruptions import end
from common.listed_command import Command
from common.program import call

COMMANDS = {
    "collect": Command(
        "traces.cli.collect:collect",
        "Run a model on prompts and record its routing.",
        "collect pocket --continue-text --max-new-tokens 64 --out A.trace",
        resumes="once kept",
    ),
    "prompts": Command("traces.cli.prompts:prompts", "List the prompt sets, or describe one.", "prompts built-in"),
    "info": Command("traces.cli.info:info", "Describe a trace.", "info NAME.trace"),
    "check": Command("traces.cli.check:check", "Verify every hash and every row of a trace.", "check NAME.trace"),
    "analyse": Command(
        "traces.cli.analyse:analyse",
        "Tabulate and plot routing statistics of a trace.",
        "analyse NAME.trace --out analysis",
    ),
    "convert": Command(
        "traces.cli.convert:app", "Convert a recording made by another tool to a trace.", resumes="once kept"
    ),
    "arrivals": Command(
        "traces.cli.arrivals:arrivals",
        "Describe, sample or generate a workload.",
        "arrivals azure.csv --requests 256 --rate 2.91 --out azure.parquet",
    ),
    "fit": Command(
        "traces.cli.fit:fit",
        "Give recorded requests the lengths and arrivals of a workload.",
        "fit NAME.trace --workload azure.parquet --out NAME-azure.trace",
        resumes="once kept",
    ),
    "synthetic": Command(
        "traces.cli.synthetic:synthetic",
        "Generate a trace with given statistics.",
        "synthetic --model mixtral-8x7b --overlap 0.5 --out NAME.trace",
        resumes="once kept",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return call("finemoe traces", PACKAGES["traces"].help, COMMANDS, argv)


if __name__ == "__main__":
    end(main())

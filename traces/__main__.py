"""`finemoe traces COMMAND`: collect, look at, check, analyse and convert traces."""

import sys
from collections.abc import Sequence

from common.commands import Command, call

COMMANDS = {
    "collect": Command(
        "traces.cli.collect:collect",
        "Run a model on prompts and record its routing.",
        "collect pocket --continue-text --max-new-tokens 64 --out A.trace",
    ),
    "prompts": Command(
        "traces.cli.prompts:prompts", "List the sets of prompts, or show what is in one.", "prompts built-in"
    ),
    "info": Command("traces.cli.info:info", "Show what is in a trace.", "info NAME.trace"),
    "check": Command("traces.cli.check:check", "Verify every hash and every row of a trace.", "check NAME.trace"),
    "analyse": Command(
        "traces.cli.analyse:analyse",
        "Tabulate and draw what a trace tells about routing.",
        "analyse NAME.trace --out analysis",
    ),
    "convert": Command("traces.cli.convert:app", "Make a trace of somebody else's recording."),
    "arrivals": Command(
        "traces.cli.arrivals:arrivals",
        "Look at a workload, sample one, or draw one.",
        "arrivals azure.csv --requests 256 --rate 2.91 --out azure.parquet",
    ),
    "fit": Command(
        "traces.cli.fit:fit",
        "Give recorded requests the lengths and arrivals of a workload.",
        "fit NAME.trace --workload azure.parquet --out NAME-azure.trace",
    ),
    "synthetic": Command(
        "traces.cli.synthetic:synthetic",
        "Draw a trace from stated statistics.",
        "synthetic --model mixtral-8x7b --overlap 0.5 --out NAME.trace",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    return call("finemoe traces", "Routing traces of Mixture-of-Experts models.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())

"""`python -m traces COMMAND`: collect, look at, check, analyse and convert traces."""

import sys
from collections.abc import Sequence

from common.commands import Command, call

COMMANDS = {
    "collect": Command(
        "traces.cli.collect",
        "run a HuggingFace MoE model on prompts and record its gates",
        "collect pocket --prompts prompts.jsonl --max-new-tokens 64 --out pocket.trace",
    ),
    "prompts": Command("traces.cli.prompts", "list the sets of prompts, and show what is in one", "prompts built-in"),
    "info": Command("traces.format.description", "show what is in a trace", "info NAME.trace"),
    "check": Command("traces.format.checks", "verify every hash and every row of a trace", "check NAME.trace"),
    "analyse": Command(
        "traces.cli.analyse",
        "entropy, overlap, reuse, similarity and load of a trace, in tables and pictures",
        "analyse NAME.trace --out analysis",
    ),
    "convert": Command(
        "traces.cli.convert",
        "bring other people's traces into our format",
        "convert npz routing.npz --model gpt-oss-20b --out gpt-oss.trace",
    ),
    "arrivals": Command(
        "traces.cli.arrivals",
        "show, sample or draw when requests arrive and how long they are",
        "arrivals AzureLLMInferenceTrace_conv.csv --requests 256 --rate 2.91 --out azure.parquet --plot azure.png",
    ),
    "fit": Command(
        "traces.cli.fit",
        "give recorded requests the lengths and arrivals of a workload",
        "fit NAME.trace --workload azure.parquet --out NAME-azure.trace",
    ),
    "synthetic": Command(
        "traces.cli.synthetic",
        "draw a trace from stated statistics, or from those of another trace",
        "synthetic --layers 32 --experts 8 --top-k 2 --overlap 0.5 --clusters 16 --out NAME.trace",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    return call("traces", "Collect, look at, check, analyse and convert traces of MoE routing.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())

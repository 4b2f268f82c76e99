"""`finemoe sim COMMAND`: simulate policies on traces."""

from collections.abc import Sequence

from common.console import PACKAGES
from common.interruptions import end
from common.listed_command import Command, IfGiven
from common.program import call

COMMANDS = {
    "run": Command(
        "sim.cli.run:run",
        "Compare policies on a trace.",
        "run NAME.trace --policy finemoe --policy lru --cache-share 0.25",
        resumes=IfGiven("--store", "FINEMOE_STORE"),
    ),
    "sweep": Command(
        "sim.cli.sweep:sweep",
        "Run every combination of an experiment's axes, each once.",
        "sweep EXPERIMENT.toml --dry-run",
        resumes="always",
    ),
    "whatif": Command(
        "sim.cli.whatif:whatif",
        "Vary link, memory, cache, compute and more, one at a time, and show how much each matters.",
        "whatif NAME.trace --policy finemoe --policy lru --cache-share 0.25 --plot whatif.png",
        resumes="always",
    ),
    "comparison": Command(
        "sim.cli.comparison:comparison",
        "Rank the systems on many traces, caches and machines, and write comparison.md.",
        "comparison --routing comparison-out/routing --out docs --overwrite",
        resumes="always",
    ),
    "paper": Command(
        "sim.cli.paper:paper",
        "Make the tables and figures of the FineMoE paper, and judge its claims.",
        "paper --quick --out paper-out",
        resumes="always",
    ),
    "anchors": Command(
        "sim.cli.anchors:anchors",
        "Simulate published measurements, and write the errors to anchors.md.",
        "anchors --routing comparison-out/routing --out docs --overwrite",
        resumes="always",
    ),
    "store": Command("sim.cli.store:app", "Inspect a result store, or clean it up."),
    "policies": Command("sim.cli.policies:policies", "List policies and evictors, and their settings.", "policies"),
    "machines": Command(
        "sim.cli.machines:machines",
        "List machines, or show their figures with sources.",
        "machines rtx3090x6,framework=transformers",
    ),
    "predict": Command(
        "sim.cli.predict:predict",
        "Measure how well policies predict, without modelling time or caches.",
        "predict NAME.trace --policy finemoe --policy hit-count --plot recall.png",
    ),
    "plot": Command(
        "sim.cli.plot:plot",
        "Draw a folder of results, or a sweep.",
        "plot RESULTS --out policies.png",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit status."""
    return call("finemoe sim", PACKAGES["sim"].help, COMMANDS, argv)


if __name__ == "__main__":
    end(main())

"""`finemoe sim COMMAND`: simulate policies on traces."""

import sys
from collections.abc import Sequence

from common.commands import Command, call

COMMANDS = {
    "run": Command(
        "sim.cli.run:run",
        "Compare policies on a trace.",
        "run NAME.trace --policy finemoe --policy lru --cache-share 0.25",
    ),
    "sweep": Command(
        "sim.cli.sweep:sweep",
        "Run every combination of an experiment's axes, each once.",
        "sweep EXPERIMENT.toml --dry-run",
    ),
    "whatif": Command(
        "sim.cli.whatif:whatif",
        "Vary link, memory, cache, compute and more of a scenario, one at a time: what matters, and how much?",
        "whatif NAME.trace --policy finemoe --policy lru --cache-share 0.25 --plot whatif.png",
    ),
    "comparison": Command(
        "sim.cli.comparison:comparison",
        "Rank the systems on many traces, caches and machines, and write docs/comparison.md.",
        "comparison --routing comparison-out/routing --out docs",
    ),
    "paper": Command(
        "sim.cli.paper:paper",
        "Make the figures of the FineMoE paper, and judge each of its claims.",
        "paper --quick --out paper-out",
    ),
    "anchors": Command(
        "sim.cli.anchors:anchors",
        "Simulate published measurements and report the error, in docs/anchors.md.",
        "anchors --routing comparison-out/routing --out docs",
    ),
    "store": Command("sim.cli.store:app", "Look at a result store, and clean it up."),
    "policies": Command(
        "sim.cli.policies:policies", "List policies and evictors, what they need and their settings.", "policies"
    ),
    "machines": Command(
        "sim.cli.machines:machines",
        "List machines, and where their figures are from.",
        "machines rtx3090x6,framework=transformers",
    ),
    "predict": Command(
        "sim.cli.predict:predict",
        "Measure how well policies predict, apart from time and caches.",
        "predict NAME.trace --policy finemoe --policy hit-count --plot recall.png",
    ),
    "plot": Command(
        "sim.cli.plot:plot",
        "Draw the comparison that a folder of results holds, or a sweep.",
        "plot RESULTS --out policies.png",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit status."""
    return call("finemoe sim", "Simulate offloading policies on routing traces.", COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())

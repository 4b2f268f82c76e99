"""`finemoe validate COMMAND`: run policies on real devices and compare with the simulation."""

from collections.abc import Sequence

from common.console import PACKAGES
from common.interruptions import end
from common.listed_command import Command
from common.program import call

COMMANDS = {
    "calibrate": Command(
        "validate.cli.calibrate:calibrate",
        "Measure this machine with a model, and write a profile for the simulator.",
        "calibrate pocket --out machine.toml",
    ),
    "measure": Command(
        "validate.cli.measure:measure",
        "Measure the rates of this machine, and write a data sheet that works for any model.",
        "measure --out RATES",
    ),
    "replay": Command(
        "validate.cli.replay:replay",
        "Run a model with its experts really offloaded, and measure policies.",
        "replay pocket --policy finemoe --cache-experts 16 --out MEASURED",
    ),
    "compare": Command(
        "validate.cli.compare:compare",
        "Compare simulated with measured results.",
        "compare SIMULATED MEASURED --plot timelines.png",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    return call("finemoe validate", PACKAGES["validate"].help, COMMANDS, argv)


if __name__ == "__main__":
    end(main())

"""`finemoe PACKAGE COMMAND`: the commands of all packages behind one console script.

Unlike `python -m sim`, a console script does not look for modules in the current folder first, so a user's own `sim.py`
does not replace the package.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from common.interruptions import end
from common.listed_command import Command
from common.program import call

PACKAGES = {
    "traces": Command(
        "traces.__main__:main",
        "Record, convert, generate, check and analyse routing traces of Mixture-of-Experts models.",
    ),
    "sim": Command("sim.__main__:main", "Simulate offloading policies on routing traces."),
    "validate": Command(
        "validate.__main__:main", "Run models with experts really offloaded, and compare with the simulation."
    ),
}
DESCRIPTION = "FineMoE Lab: simulate and test expert offloading for Mixture-of-Experts models."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of one of the packages; its exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] in PACKAGES:
        package = import_module(f"{words[0]}.__main__")
        status = int(package.main(words[1:]))
    else:
        status = call("finemoe", DESCRIPTION, PACKAGES, words, version=_version)
    if argv is None:
        end(status)
    return status


def _version() -> str:
    from importlib.metadata import version

    return f"finemoe-lab {version('finemoe-lab')}"

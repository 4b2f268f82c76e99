"""Before anything is imported: tests run side by side, and the models in them are too small for a second thread."""

import gc
import os
import signal
import sys
from functools import cache

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"  # a busy machine shows progress where a quiet one has no time for it
os.environ["COLUMNS"] = "100"  # as in docs/commands.md: the first help that is printed decides on all later ones
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test asks for more threads, none spins while it waits

from policies import naming  # after the environment, which NumPy reads when it is imported

# Tests interrupt what they start. In the background of a shell, or under nohup, that would be ignored.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, handler)

# No example fails because the machine is busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# A policy of these tests is known by the sources of its package, all tests: they are read once, not for each run.
_sources_of, _read_once = naming.sources_of, cache(naming.sources_of)
naming.sources_of = lambda module: (_read_once if module.startswith("tests.") else _sources_of)(module)

pytest_plugins = ["tests.support.run_helpers"]


def pytest_collection_finish() -> None:
    """All that was imported so far stays: garbage collection, which replays force, no longer searches it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Commands that were called before may have set another number."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

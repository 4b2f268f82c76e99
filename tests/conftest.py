"""Before anything is imported: tests run side by side, and the models in them are too small for a second thread."""

import os
import signal
import sys

import pytest
import tqdm  # noqa: F401  # reads TQDM_DISABLE now, so its bars can be tested in this process
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TQDM_DISABLE"] = "1"  # on a busy machine commands would show progress; tqdm itself is loaded already
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # where a test asks for more threads, none spins while it waits
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as in the background of a shell; tests interrupt what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No example fails because the machine is busy.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

pytest_plugins = ["tests.support.run_helpers"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Commands that were called before may have set another number."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

"""Before anything is imported: tests run side by side, and the models in them are too small for a second thread."""

import os
import signal
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # as in the background of a shell; tests interrupt what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.support.run_helpers"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Commands that were called before may have set another number."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)

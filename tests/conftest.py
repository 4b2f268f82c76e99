"""Before anything is imported: tests run side by side, and the models in them are too small for a second thread."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["run_helpers"]

"""Calls that a Ray cluster executes: the cluster at $RAY_ADDRESS, or one of this machine alone."""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import FieldError, UserError, one_line, reason

# Only calls on a node that has died are repeated elsewhere. The limit ends a call whose process dies every time, for
# example because its policy crashes Python.
RETRIES = 5

# Ray reads these variables when it is imported, and has no other way to set them. They keep messages of its nodes out
# of standard output, where only results belong, and make processes on this machine listen to this machine only.
QUIET = {"RAY_DEDUP_LOGS_SKIP_REGEX": "."}
THIS_MACHINE_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class OnCluster:
    """A function that a process of the cluster executes, on its own processor; called like the original."""

    def __init__(self, function: Callable[..., Any]) -> None:
        ray = _ray()
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
        self._running: set[Any] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, *arguments: Any) -> Any:
        """The function's answer or error; a `UserError` if the process died repeatedly."""
        ray = _ray()
        with self._lock:
            if self._closed:
                raise RuntimeError("the calls have been cancelled")
            call = self._task.remote(*arguments)
            self._running.add(call)
        try:
            return ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError) as error:
            raise UserError(
                f"a process that ran scenarios died, {RETRIES + 1} times in a row, possibly out of memory; run the "
                "same command again to resume"
            ) from error
        except ray.exceptions.RayError as error:
            raise UserError(f"the Ray cluster could not execute a run: {one_line(error)}") from error
        finally:
            self._running.discard(call)

    def cancel(self) -> None:
        """End the running calls, and refuse new ones."""
        ray = _ray()
        with self._lock:
            self._closed = True
            for call in tuple(self._running):
                ray.cancel(call, force=True)


def connected_processors() -> int:
    """Connect to the cluster if necessary, and return its number of processors."""
    ray = _ray()
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        alone = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        try:
            _knock(address or "")
            ray.init(
                address=address or "local",
                runtime_env={"env_vars": {"PYTHONPATH": _import_path()}},
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **({} if address else alone),
            )
        except (OSError, RuntimeError, ValueError) as error:
            where = f"no Ray cluster answers at $RAY_ADDRESS, {address}" if address else "Ray cannot be started here"
            raise UserError(f"{where}: {reason(error)}") from error
    processors = int(ray.cluster_resources().get("CPU", 0))
    if not processors:
        raise UserError("the Ray cluster has no processors")
    return processors


def _knock(address: str) -> None:
    """Raise an `OSError` if nothing listens at `HOST:PORT`, because Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def _import_path() -> str:
    """The path on which processes of the cluster find our code, installed or not, and this process's modules."""
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(Path(__file__).parents[2]), *([before] if before else [])])


def _ray() -> Any:
    """The library, which takes a second to import and need not be installed."""
    if "ray" not in sys.modules:
        for name, value in (QUIET if os.environ.get("RAY_ADDRESS") else QUIET | THIS_MACHINE_ONLY).items():
            os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        problem = f"ray cannot be imported ({one_line(error)}); pip install 'finemoe-lab[ray]'"
        raise FieldError("backend", problem) from error
    return ray

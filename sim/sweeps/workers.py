"""Processes that execute runs, on this machine or on a cluster: joblib, with loky or Ray as its backend."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import resource_tracker
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Ge
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from common.errors import UserError
from common.interruptions import unwound
from common.settings import check
from sim.sweeps.ray_cluster import OnCluster, connected_processors

Backend = Literal["loky", "ray"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many processes execute the runs, and where."""

    jobs: Annotated[int, Ge(1)] | None = None
    """Runs to execute in parallel; with 1, all run in this process. Default: one per processor."""
    backend: Backend = "loky"
    """Use processes of this machine (loky) or of the Ray cluster at $RAY_ADDRESS (`pip install 'finemoe-lab[ray]'`)."""

    def __post_init__(self) -> None:
        check(self)

    def each(self, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> Iterator[T]:
        """The function's answers to the calls, in order of completion.

        The first error of any call ends them all. What the function has written to disk by then is kept.
        """
        if not calls:
            return
        jobs = self.processes(len(calls))
        with unwound(), self._backend(function, jobs) as called:
            parallel = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="2*n_jobs", return_as="generator_unordered")
            try:
                with _without_interrupts():
                    answers = parallel(delayed(called)(*call) for call in calls)
                yield from answers
            except TerminatedWorkerError as error:
                raise UserError(
                    "a process that ran scenarios was killed, possibly out of memory; run the same command again "
                    "to resume, with fewer `jobs` if it happens again"
                ) from error

    def processes(self, calls: int) -> int:
        """The number of calls that run at a time."""
        if self.jobs is not None:
            return min(self.jobs, calls)
        processors = connected_processors() if self.backend == "ray" else int(cpu_count())
        return min(processors, calls)

    @contextmanager
    def _backend(self, function: Callable[..., T], jobs: int) -> Iterator[Callable[..., T]]:
        """Set joblib's backend, and yield the function to call there."""
        if self.backend == "ray":
            connected_processors()
            on_cluster = OnCluster(function)
            try:
                with parallel_config(backend="threading"):  # a thread waits for each call that the cluster executes
                    yield on_cluster
            finally:
                on_cluster.cancel()
        elif jobs == 1:  # joblib calls it in this process
            yield function
        else:
            resource_tracker.ensure_running()  # before Ctrl-C is blocked: its start unblocks it (Python 3.11)
            with parallel_config(backend="loky", inner_max_num_threads=1):
                yield _UntilCommandEnds(function)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C in processes started within the block, so that this process can end them without tracebacks.

    They inherit the mask of signals. In this thread, Ctrl-C is delivered when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _UntilCommandEnds:
    """A function for other processes of this machine, which end when the command that started them is gone.

    Otherwise they would run for minutes after the command was killed, beside those of the next command.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._command = os.getpid()

    def __call__(self, *arguments: Any) -> Any:
        _end_with(self._command)
        return self._function(*arguments)


@cache  # a process is watched once
def _end_with(command: int) -> None:
    """End this process as soon as the command is no longer its parent."""

    def watch() -> None:
        while os.getppid() == command:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

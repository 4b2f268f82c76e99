"""Processes that carry out runs, on this machine or on a cluster: joblib, with loky or with Ray behind it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
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
    """How many processes carry out the runs, and where."""

    jobs: Annotated[int, Ge(1)] | None = None
    """Runs to execute in parallel; 1 stays in this process. Default: one per processor."""
    backend: Backend = "loky"
    """Processes of this machine, or of a Ray cluster (`pip install 'finemoe-lab[ray]'`; $RAY_ADDRESS names it)."""

    def __post_init__(self) -> None:
        check(self)

    def each(self, function: Callable[..., T], calls: Sequence[tuple[Any, ...]]) -> Iterator[T]:
        """What the function answers to each of the calls, as the answers come, not in order.

        The first error of any call ends them all. What the function keeps on disk by then is there.
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
        """How many calls are carried out at a time."""
        if self.jobs is not None:
            return min(self.jobs, calls)
        processors = connected_processors() if self.backend == "ray" else int(cpu_count())
        return min(processors, calls)

    @contextmanager
    def _backend(self, function: Callable[..., T], jobs: int) -> Iterator[Callable[..., T]]:
        """Let joblib start calls where they are to be carried out; the function is the one to call there."""
        if self.backend == "ray":
            connected_processors()
            on_cluster = OnCluster(function)
            try:
                with parallel_config(backend="threading"):  # a thread waits for each call, the cluster carries it out
                    yield on_cluster
            finally:
                on_cluster.cancel()
        elif jobs == 1:  # joblib calls it in this process
            yield function
        else:
            with parallel_config(backend="loky", inner_max_num_threads=1):
                yield _UntilCommandEnds(function)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let processes that begin within the block ignore Ctrl-C: this one ends them, without tracebacks of theirs.

    For that moment this one ignores it too.
    """
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _UntilCommandEnds:
    """A function for other processes of this machine, which end when the command that started them is gone.

    Otherwise they would go on for minutes after it was killed, beside those of the next one.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._command = os.getpid()

    def __call__(self, *arguments: Any) -> Any:
        _end_with(self._command)
        return self._function(*arguments)


@cache  # a process is watched once
def _end_with(command: int) -> None:
    """End this process as soon as its parent is not the command any more."""

    def watch() -> None:
        while os.getppid() == command:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()

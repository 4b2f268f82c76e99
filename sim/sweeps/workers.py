"""Processes that carry out runs, on this machine or on a cluster: joblib, with loky or with Ray behind it."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from annotated_types import Ge
from joblib import Parallel, cpu_count, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from common.errors import FieldError, UserError, one_line
from common.settings import check

Backend = Literal["loky", "ray"]
T = TypeVar("T")

# Ray gives up the whole pool when a node dies unless its actors may start again elsewhere, as often as it takes; then
# only what ran there is repeated.
RAY_SURVIVES = {"max_restarts": -1, "max_task_retries": -1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many processes carry out the runs, and where."""

    jobs: Annotated[int, Ge(1)] | None = None
    """Runs that are carried out at the same time; 1 stays in this process. Default: a run per processor."""
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
        with self._backend():
            jobs = self.processes(len(calls))
            parallel = Parallel(n_jobs=jobs, batch_size=1, pre_dispatch="2*n_jobs", return_as="generator_unordered")
            try:
                yield from parallel(delayed(function)(*call) for call in calls)
            except TerminatedWorkerError as error:
                raise UserError(
                    "a process that ran scenarios was killed, perhaps for want of memory; run the same command again "
                    "to go on, with fewer `jobs` if it happens again"
                ) from error

    def processes(self, calls: int) -> int:
        """How many calls are carried out at a time."""
        if self.jobs is not None:
            return min(self.jobs, calls)
        if self.backend == "ray":
            return min(_connected_processors(), calls)
        return min(int(cpu_count()), calls)

    def _backend(self) -> AbstractContextManager[Any]:
        if self.backend == "ray":
            _connected_processors()
            return cast(AbstractContextManager[Any], parallel_config(backend="ray", ray_remote_args=RAY_SURVIVES))
        if self.jobs == 1:
            return nullcontext()
        return cast(AbstractContextManager[Any], parallel_config(backend="loky", inner_max_num_threads=1))


def _connected_processors() -> int:
    """Connect to the cluster unless that is done; the answer is how many processors it has."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        problem = f"ray cannot be imported ({one_line(error)}); pip install 'finemoe-lab[ray]', value ray"
        raise FieldError("backend", problem) from error
    if not ray.is_initialized():
        root = Path(__file__).parents[2]  # so that workers import the same code, installed or not
        try:
            ray.init(
                address=os.environ.get("RAY_ADDRESS"),
                runtime_env={"env_vars": {"PYTHONPATH": str(root)}},
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"no Ray cluster answers: {one_line(error)}") from error
    register_ray()  # type: ignore[no-untyped-call]
    return int(ray.cluster_resources()["CPU"])  # type: ignore[no-untyped-call]

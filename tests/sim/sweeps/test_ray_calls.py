"""Calls on a cluster, without one: what becomes of Ray's answers and errors."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from common.errors import UserError
from sim.sweeps.ray_cluster import RETRIES, OnCluster, connected_processors
from sim.sweeps.run_task import ROOT
from sim.sweeps.workers import Workers


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class WorkerCrashedError(RayError):
    pass


class NodeDiedError(RayError):
    pass


class StubRay(ModuleType):
    """Executes calls here as soon as somebody waits for their answers."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=RayTaskError, WorkerCrashedError=WorkerCrashedError, NodeDiedError=NodeDiedError
    )

    def __init__(self, *, processors: float = 3) -> None:
        super().__init__("ray")
        self.processors = processors
        self.started: list[dict[str, Any]] = []
        self.options: dict[str, Any] = {}
        self.cancelled: list[Any] = []

    def is_initialized(self) -> bool:
        return bool(self.started)

    def init(self, **settings: Any) -> None:
        self.started.append(settings)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.processors}

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.options = options
        return lambda function: SimpleNamespace(remote=lambda *given: (function, given))

    def get(self, call: tuple[Callable[..., Any], tuple[Any, ...]]) -> Any:
        function, given = call
        try:
            return function(*given)
        except RayError:
            raise
        except Exception as error:
            raise RayTaskError(error) from error

    def cancel(self, call: Any, *, force: bool) -> None:
        assert force
        self.cancelled.append(call)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> StubRay:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    stub = StubRay()
    monkeypatch.setitem(sys.modules, "ray", stub)
    return stub


def raises(error: Exception) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def test_every_call_takes_a_processor_of_the_cluster_and_is_answered(ray: StubRay) -> None:
    workers = Workers(backend="ray")
    assert sorted(workers.each(abs, [(-number,) for number in range(9)])) == list(range(9))
    assert ray.options == {"num_cpus": 1, "max_retries": RETRIES}
    assert len(ray.started) == 1
    assert workers.processes(9) == 3
    assert Workers(backend="ray", jobs=2).processes(9) == 2


def test_the_error_of_a_call_comes_as_it_is(ray: StubRay) -> None:
    error = UserError("number: must not be 3")
    with pytest.raises(UserError) as raised:
        OnCluster(raises(error))()
    assert raised.value is error
    assert raised.value.__suppress_context__  # Ray's own error, with a traceback of several pages


@pytest.mark.parametrize("error", [WorkerCrashedError(), NodeDiedError()])
def test_a_process_that_dies_every_time_is_one_line(ray: StubRay, error: RayError) -> None:
    with pytest.raises(UserError, match=r"^a process that ran scenarios died, 6 times in a row, [^\n]* to resume$"):
        OnCluster(raises(error))()


def test_any_other_error_of_ray_is_one_line(ray: StubRay) -> None:
    with pytest.raises(UserError, match=r"^the Ray cluster could not execute a run: the object store is full [^\n]*$"):
        OnCluster(raises(RayError("the object store is full\nof many things")))()


def test_running_calls_are_cancelled_and_no_new_one_begins(ray: StubRay) -> None:
    calls: list[OnCluster] = []

    def cancels() -> None:
        calls[0].cancel()

    calls.append(OnCluster(cancels))
    calls[0]()
    calls[0].cancel()  # nothing runs any more
    assert ray.cancelled == [(cancels, ())]
    with pytest.raises(RuntimeError, match="cancelled"):
        calls[0]()


def test_a_cluster_on_this_machine_listens_to_this_machine_only(ray: StubRay) -> None:
    assert connected_processors() == 3
    (settings,) = ray.started
    assert (settings["address"], settings["_node_ip_address"]) == ("local", "127.0.0.1")
    assert settings["runtime_env"]["env_vars"]["PYTHONPATH"].split(":")[0] == str(ROOT)  # where workers find our code


def test_nothing_at_an_address_with_a_port_is_one_line_before_ray_tries_for_minutes(
    ray: StubRay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "ray://127.0.0.1:1")
    with pytest.raises(UserError, match=r"^no Ray cluster answers at \$RAY_ADDRESS, ray://127\.0\.0\.1:1: Connection"):
        connected_processors()
    assert ray.started == []


def test_an_address_without_a_port_is_left_to_ray(ray: StubRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    connected_processors()
    (settings,) = ray.started
    assert settings["address"] == "auto"
    assert "_node_ip_address" not in settings


def test_a_cluster_without_processors_is_one_line(ray: StubRay) -> None:
    ray.processors = 0
    with pytest.raises(UserError, match=r"^the Ray cluster has no processors$"):
        list(Workers(backend="ray").each(abs, [(1,)]))


def test_ray_that_does_not_start_is_one_line(ray: StubRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(**settings: Any) -> None:
        raise RuntimeError("no port\nis free")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(UserError, match=r"^Ray cannot be started here: no port[^\n]*$"):
        connected_processors()

"""A second simulator, written from `docs/` alone by somebody who has not read the first: obvious, and slow.

Nothing is ever woken up: after each event, all that could go on is looked at.
"""

from collections.abc import Iterator
from typing import Any

from tests.support.oracle.clock import Clock
from tests.support.oracle.copies import Copies
from tests.support.oracle.placement import Expert
from tests.support.oracle.routing import iterations
from tests.support.oracle.speeds import set_speeds


class Oracle:
    """One run. `instance` says what runs on what; `system` plans and scores (`systems.py`)."""

    def __init__(self, instance: Any, system: Any) -> None:
        self.instance, self.model, self.cost, self.gpus = instance, instance.model, instance.cost, instance.gpus
        self.system, self.planner, self.evictor = system, system.planner, system.evictor
        self.blocking_prediction = system.blocking_prediction and instance.prefetch
        self.blocking_prefetch = system.blocking_prefetch and instance.prefetch
        self.clock = Clock()
        self.copies = Copies(instance, system, self.clock, saw=self.saw, arrived=self._arrived)
        self.to_compute: list[list[Expert]] = [[] for _ in range(self.gpus)]  # what is there, in order
        self.not_computed: set[Expert] = set()
        self.computing = [False] * self.gpus
        self.may_compute = self.waves = False
        self.predictor_free_s = 0.0
        self.searching = 0
        self.until: Any = None  # what the iterations wait for
        self.finished = False
        self.iteration: dict[str, Any] = {}
        self.rows: list[dict[str, Any]] = []  # of each iteration
        self.requests: dict[int, dict[str, Any]] = {}
        self.seen: dict[str, int] = {}  # how often what a test must cover has happened

    def run(self) -> "Oracle":
        self.flow = self._serve()
        self._go_on()
        self.clock.run(
            lambda: set_speeds(self.clock.works, self.cost.effects, self.saw), self._settle, lambda: self.finished
        )
        return self

    def saw(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # ---- the iterations -------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Resume the iterations until they wait for time, for a GPU that computes, or for something to be true."""
        for wait in self.flow:
            if isinstance(wait, float):
                self.clock.after(wait, self._go_on)
                return
            if isinstance(wait, tuple):
                gpu, seconds = wait
                self.clock.work(seconds, self._go_on, computes=gpu)
                return
            if not wait():
                self.until = wait
                return
        self.finished = True

    def _settle(self) -> None:
        """All that can go on does."""
        changed = True
        while changed:
            self.copies.choose_all()
            for gpu in range(self.gpus):
                self._compute_next(gpu)
            changed = self.until is not None and self.until()
            if changed:
                self.until = None
                self._go_on()

    def _serve(self) -> Iterator[Any]:
        """Yields seconds to let pass, (GPU, seconds) to compute, and conditions to wait for."""
        for iteration in iterations(self.instance.requests, self.instance.batch_size, self.model):
            self.iteration = iteration
            row: dict[str, Any] = {"start_s": self.clock.now}
            before = self.copies.copied_bytes
            self.rows.append(row)
            self.copies.layer_now = -1
            for request in iteration["starting"]:
                self.requests[request.request] = {"start_s": self.clock.now, "decoded": 0}
            self.evictor.on_batch(iteration)
            self._carry_out(self.planner.on_batch(iteration))
            self.copies.choose_all()
            for layer in range(self.model.layers):
                yield from self._layer(layer, row)
            yield (self.model.layers - 1) % self.gpus, self.cost.head_s(len(iteration["running"]))
            row["end_s"], row["copied_bytes"] = self.clock.now, self.copies.copied_bytes - before
            for request, prefill in zip(iteration["running"], iteration["prefill"], strict=True):
                times = self.requests[request.request]
                times["decoded"] += not prefill
                times["end_s"] = self.clock.now
                if prefill:
                    times["first_s"] = self.clock.now
            self._carry_out(self.planner.on_batch_end(iteration))

    def _layer(self, layer: int, row: dict[str, Any]) -> Iterator[Any]:
        iteration, effects, copies = self.iteration, self.cost.effects, self.copies
        self._carry_out(self.planner.on_layer(iteration, layer))
        copies.pinned = set()  # of the layer before, if this one begins at the moment of its end
        if self.blocking_prefetch:
            copies.wait_begins(layer)
        copies.layer_begins()
        if self.blocking_prefetch and not copies.plan_is_there(layer):
            self.saw("prefetch wait")
            yield lambda: copies.plan_is_there(layer)
        copies.wait_ends()
        if effects.layer_host_s:
            yield float(effects.layer_host_s)
        yield layer % self.gpus, self.cost.dense_s(iteration["tokens"], iteration["context"], iteration["attended"])
        self._gate(layer, row)
        if self.blocking_prediction and self.searching:
            self.saw("search wait")
            yield lambda: not self.searching
        if effects.expert_host_s:
            yield float(effects.expert_host_s * len(iteration["experts"][layer]))
        self.may_compute = True
        yield lambda: not self.not_computed
        self.may_compute = self.waves = False
        gap_s = self.cost.exchange_s(iteration["tokens"]) + self.cost.driving_s
        if gap_s or layer == self.model.layers - 1:
            copies.pinned = set()  # else the next layer begins first
        if gap_s:
            yield float(gap_s)

    def _gate(self, layer: int, row: dict[str, Any]) -> None:
        """The router has spoken: its experts are demanded."""
        copies, experts = self.copies, list(self.iteration["experts"][layer])
        copies.layer_now = layer
        found = copies.demand(layer, experts)
        for outcome, keys in found.items():
            row[outcome] = row.get(outcome, 0) + len(keys)
        if found["late"]:
            self.saw("late")
        for key in found["hits"]:
            self.to_compute[copies.gpu_of(key)].append(key)
        self.not_computed = {(layer, expert) for expert in experts}
        wanted = [copies.gpu_of(key) for key in self.not_computed]
        self.waves = any(wanted.count(gpu) > copies.slots[gpu] for gpu in range(self.gpus))
        if self.waves:
            self.saw("waves")
        self.evictor.touched(layer, experts, self.clock.now)
        self._carry_out(self.planner.on_gate(self.iteration, layer))
        copies.choose_all()

    # ---- computing ------------------------------------------------------------------------------------------------

    def _arrived(self, gpu: int, key: Expert) -> None:
        self.to_compute[gpu].append(key)

    def _compute_next(self, gpu: int) -> None:
        if self.computing[gpu] or not self.may_compute or not self.to_compute[gpu]:
            return
        there = self.copies.there
        if not (self.system.compute_on_arrival or self.waves) and not all(
            key in there and there[key]["complete"] for key in self.not_computed
        ):
            return
        layer, expert = key = self.to_compute[gpu].pop(0)
        self.computing[gpu] = True
        seconds = self.cost.expert_s(self.iteration["experts"][layer][expert])
        self.clock.work(seconds, lambda: self._computed(gpu, key), computes=gpu)

    def _computed(self, gpu: int, key: Expert) -> None:
        self.computing[gpu] = False
        self.not_computed.remove(key)
        there = self.copies.there
        here = {key for key in self.copies.pinned if key in there and there[key]["gpu"] == gpu}
        if self.waves and not here & self.not_computed:
            self.copies.pinned -= here

    # ---- plans and searches ---------------------------------------------------------------------------------------

    def _carry_out(self, wishes: Any) -> None:
        for wish in wishes:
            if "search" in wish:
                self._search(wish)
                continue
            if self.instance.prefetch:
                self.copies.take_plan(wish)
            belief = wish["belief"]
            if belief is None:
                weights = dict(zip(wish["experts"], wish["weights"], strict=True))
                belief = [weights.get(expert, 0.0) for expert in range(self.model.experts)]
            self.evictor.believe(wish["layer"], belief)

    def _search(self, wish: dict[str, Any]) -> None:
        """One at a time, first come first served; an update finds nothing."""
        self.predictor_free_s = max(self.clock.now, self.predictor_free_s) + self.cost.search_s(wish["search"])
        self.searching += 1
        issued_in = self.iteration["number"]

        def ended() -> None:
            self.searching -= 1
            if "found" in wish:
                over = issued_in != self.iteration["number"]
                self._carry_out(wish["found"](self.model.layers if over else self.copies.layer_now))

        self.clock.after(self.predictor_free_s - self.clock.now, ended)

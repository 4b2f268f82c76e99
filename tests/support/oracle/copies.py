"""What lies on the GPUs, what is planned and demanded, and what each link moves next."""

from collections.abc import Callable
from typing import Any

from tests.support.oracle.awaited_turns import AwaitedTurns
from tests.support.oracle.clock import Clock
from tests.support.oracle.placement import Expert, slots_of


class Copies:
    """Slots, plans, queues and links, in plain dicts whose keys are (layer, expert).

    Whoever changes something calls `choose_all` afterwards, so no link has to be woken up. `asked` only keeps the order
    in which links choose at one moment. `saw` counts what happens, `arrived` hears of demanded experts.
    """

    def __init__(
        self,
        instance: Any,
        system: Any,
        clock: Clock,
        *,
        saw: Callable[[str], None],
        arrived: Callable[[int, Expert], None],
    ) -> None:
        self.instance, self.system, self.clock, self.saw, self.heard = instance, system, clock, saw, arrived
        self.model, self.cost, self.gpus = instance.model, instance.cost, instance.gpus
        self.home = instance.home()
        everything = list(self.home)
        self.slots = slots_of(len(everything) if system.preloaded else instance.cache_experts, self.gpus)
        self.open_slots = [list(range(count))[::-1] for count in self.slots]  # the next one last
        self.there: dict[Expert, dict[str, Any]] = {}  # what has a slot: gpu, slot, bytes left, complete, demanded
        if system.preloaded:
            for key in everything:
                self.there[key] = {"gpu": self.home[key], "slot": 0, "left": 0, "complete": True, "demanded": False}
        self.moving: list[Expert | None] = [None] * self.gpus  # what each link moves
        self.demands: list[list[Expert]] = [[] for _ in range(self.gpus)]  # misses that have no slot yet
        self.queue: list[dict[Expert, float]] = [{} for _ in range(self.gpus)]  # prefetches without a slot: weights
        self.plan: dict[int, list[int]] = {}  # of each layer
        self.pinned: set[Expert] = set()
        self.demanded_at: dict[Expert, int] = {}  # the last (iteration, layer) event that demanded it
        self.events = 0
        self.layer_now = -1
        self.asked: list[int] = []  # links that something was put into the queue of, in this order
        self.stalled: list[int] = []  # links that found no slot when they chose last, in the order of stalling
        self.in_turn: Expert | None = None  # a demanded expert that moves, which has the turn of serial loading
        self.turns = AwaitedTurns(saw)
        self.copied_bytes = self.evictions = 0

    # ---- demands and plans ----------------------------------------------------------------------------------------

    def demand(self, layer: int, experts: list[int]) -> dict[str, list[Expert]]:
        """The router has spoken: which experts are hits, late and misses."""
        self.drop_plan(layer)
        found: dict[str, list[Expert]] = {"hits": [], "late": [], "misses": []}
        for key in [(layer, expert) for expert in experts]:
            copy = self.there.get(key)
            if copy is None:
                found["misses"].append(key)
                homes = self.homes(key)
                gpu = min(homes, key=lambda gpu: (self._waiting(gpu), homes.index(gpu)))
                if gpu != homes[0]:
                    self.saw("demand to a replica")
                self.demands[gpu].append(key)
                self.asked.append(gpu)
            elif copy["complete"]:
                found["hits"].append(key)
            else:
                found["late"].append(key)
                copy["demanded"] = True
            self.demanded_at[key] = self.events
            self.pinned.add(key)
        self.events += 1
        self.asked += self.stalled
        return found

    def gpu_of(self, key: Expert) -> int:
        """Where an expert of the running layer is, or will be."""
        if key in self.there:
            return int(self.there[key]["gpu"])
        return next(gpu for gpu in range(self.gpus) if key in self.demands[gpu])

    def drop_plan(self, layer: int) -> None:
        self.plan[layer] = []
        for queue in self.queue:
            for key in [key for key in queue if key[0] == layer]:
                del queue[key]

    def take_plan(self, wish: dict[str, Any]) -> None:
        layer = wish["layer"]
        self.drop_plan(layer)
        self.plan[layer] = list(wish["experts"])
        if layer == self.turns.layer:
            if self.turns.waiting:
                self.saw("planned again while links wait")
            self.asked += self.turns.in_order()
        for expert, weight in zip(wish["experts"], wish["weights"], strict=True):
            key = (layer, expert)
            if key in self.there or any(key in demands for demands in self.demands):
                continue
            homes = self.homes(key)
            gpu = min(homes, key=lambda gpu: (self._waiting(gpu), len(self.queue[gpu]), homes.index(gpu)))
            if gpu != homes[0]:
                self.saw("prefetch to a replica")
            self.queue[gpu][key] = weight
            self.asked.append(gpu)
        self.asked += self.stalled

    def _waiting(self, gpu: int) -> int:
        """Demands of a link that do not move: misses, and what is left of late experts."""
        rests = [
            key
            for key, copy in self.there.items()
            if copy["gpu"] == gpu and copy["demanded"] and not copy["complete"] and key != self.moving[gpu]
        ]
        return len(self.demands[gpu]) + len(rests)

    def homes(self, key: Expert) -> list[int]:
        return [(self.home[key] + replica) % self.gpus for replica in range(self.instance.replicas)]

    def plan_is_there(self, layer: int) -> bool:
        """Nothing that the plan of the layer holds is on its way, or queued where a slot may still be found."""
        for expert in self.plan.get(layer, []):
            key = (layer, expert)
            if key in self.there and not self.there[key]["complete"]:
                return False
            if any(key in self.queue[gpu] for gpu in range(self.gpus) if gpu not in self.stalled):
                return False
        return True

    # ---- what links move ------------------------------------------------------------------------------------------

    def choose_all(self, *, but: tuple[int, ...] = ()) -> None:
        asked = set(self.asked)
        for gpu in dict.fromkeys([*self.asked, *self.stalled, *range(self.gpus)]):
            if gpu in but or self.moving[gpu] is not None:
                continue
            idle = gpu in self.turns.waiting or (gpu in self.stalled and self.turns.layer is not None)
            if idle and gpu not in asked:  # else a stalled link would ask for a turn that it does not want
                continue
            self._ask(gpu, asked=gpu in asked)
            if self.turns.handing_over:  # the link of the piece that has just arrived has chosen
                self._hand_over()
        self.asked = []

    def _ask(self, gpu: int, *, asked: bool) -> None:
        stalled = gpu in self.stalled
        self.turns.waiting.pop(gpu, None)
        if self._choose(gpu):
            if asked and stalled:
                self.stalled.remove(gpu)  # to the end
            if asked or not stalled:
                self.stalled.append(gpu)
        elif stalled:
            self.stalled.remove(gpu)

    def _hand_over(self) -> None:
        """The turn of awaited pieces goes to the first link that waits and begins one."""
        self.turns.handing_over = False
        while self.turns.waiting and self.turns.piece is None:
            self.turns.given_to = self.turns.in_order()[0]
            self._ask(self.turns.given_to, asked=True)
            if self.turns.piece is None:
                self.saw("turn went on")
        self.turns.given_to = None

    def wait_begins(self, layer: int) -> None:
        """A layer begins that starts when its plan is there."""
        if self.instance.demand_loading == "serial" and self.gpus > 1:
            self.turns.layer = layer

    def wait_ends(self) -> None:
        """The layer starts."""
        self.asked += self.turns.in_order()
        self.turns = AwaitedTurns(self.saw)

    def layer_begins(self) -> None:
        """A link that found no slot is asked only if it hears of a plan; the others choose."""
        self.choose_all(but=tuple(gpu for gpu in self.stalled if gpu not in self.asked))

    def _choose(self, gpu: int) -> bool:
        """Let an idle link begin to move what comes next; whether it has something to move but found no slot."""
        here = {key: copy for key, copy in self.there.items() if copy["gpu"] == gpu and not copy["complete"]}
        rests = sorted(key for key, copy in here.items() if copy["demanded"])
        if rests or self.demands[gpu]:
            return self._choose_demand(gpu, rests)
        for key, copy in here.items():  # at most one: a begun prefetch
            if key[1] in self.plan.get(key[0], []):
                if self._may_begin(gpu, key, begun=True):
                    self._move(key, min(copy["left"], self._chunk(key)))
                return False
            self.saw("cancelled")
            self._leave(key)
        return self._choose_prefetch(gpu)

    def _choose_demand(self, gpu: int, rests: list[Expert]) -> bool:
        key = rests[0] if rests else min(self.demands[gpu])
        if not self._has_the_turn(key):
            return True
        if not rests:
            if not self._find_slot(gpu, key, demanded=True):
                return True
            self.demands[gpu].remove(key)
            self._take_slot(gpu, key, demanded=True)
        self.in_turn = key
        self._move(key, self.there[key]["left"])
        return False

    def _has_the_turn(self, key: Expert) -> bool:
        """Under serial loading one demanded expert moves at a time: rests first, then misses, each in rising order."""
        if self.instance.demand_loading == "parallel":
            return True
        if self.in_turn is not None:
            self.saw("waited for its turn")
            return False
        waiting = [(1, other) for demands in self.demands for other in demands]
        for other, copy in self.there.items():
            if copy["demanded"] and not copy["complete"] and other not in self.moving:
                waiting.append((0, other))
        return min(waiting)[1] == key

    def _choose_prefetch(self, gpu: int) -> bool:
        def urgency(key: Expert) -> tuple[float, int, int]:
            distance = self.distance(key[0])
            return -self.system.planner.copy_key(key, self.queue[gpu][key], distance), distance, key[1]

        without_slot: set[int] = set()
        for key in sorted(self.queue[gpu], key=urgency):
            if key[0] in without_slot:
                continue
            if not self._may_begin(gpu, key, begun=False):
                return False
            if self._find_slot(gpu, key, demanded=False):
                del self.queue[gpu][key]
                self._take_slot(gpu, key, demanded=False)
                self._move(key, min(self._bytes(key), self._chunk(key)))
                return False
            without_slot.add(key[0])
            if self.system.refused_blocks:
                break
        return bool(self.queue[gpu])

    def _may_begin(self, gpu: int, key: Expert, *, begun: bool) -> bool:
        """Under serial loading, the prefetches that a layer waits for move one at a time; else the link now waits."""
        if key[0] != self.turns.layer or key[1] not in self.plan[key[0]]:
            return True
        return self.turns.may_begin(gpu, key, begun=begun)

    def distance(self, layer: int) -> int:
        return layer - self.layer_now if layer > self.layer_now else layer - self.layer_now + self.model.layers

    # ---- slots ----------------------------------------------------------------------------------------------------

    def _find_slot(self, gpu: int, key: Expert, *, demanded: bool) -> bool:
        """Whether the GPU has an open slot, for which a victim may have to go."""
        here = [other for other, copy in self.there.items() if copy["gpu"] == gpu]
        if len(here) < self.slots[gpu]:
            return True
        held: set[Expert] = set()
        if not demanded:
            near = [layer for layer in self.plan if self.distance(layer) <= self.distance(key[0])]
            held = {(layer, expert) for layer in near for expert in self.plan[layer]}
        complete = [other for other in here if self.there[other]["complete"]]
        allowed = [other for other in complete if other not in self.pinned and other not in held]
        if allowed:
            victim = min(allowed, key=self._rank)
            self._leave(victim)
            self.evictions += 1
            self.system.evictor.evicted(victim)
            return True
        begun = [other for other in here if other not in complete and not self.there[other]["demanded"]]
        if demanded and begun:
            self.saw("begun prefetch gave way")
            self._leave(begun[0])
            return True
        return False

    def _rank(self, key: Expert) -> Any:
        score = self.system.evictor.score(key)
        if self.system.evictor.by_slot:
            return score, self.there[key]["slot"]
        return score, self.demanded_at.get(key, -1), key

    def _leave(self, key: Expert) -> None:
        copy = self.there.pop(key)
        self.open_slots[copy["gpu"]].append(copy["slot"])

    def _take_slot(self, gpu: int, key: Expert, *, demanded: bool) -> None:
        facts = {"gpu": gpu, "slot": self.open_slots[gpu].pop(), "left": self._bytes(key)}
        self.there[key] = {**facts, "complete": False, "demanded": demanded}

    def _bytes(self, key: Expert) -> int:
        return int(self.model.expert_bytes_by_layer[key[0]])

    def _chunk(self, key: Expert) -> int:
        chunk = self.instance.chunk_bytes if self.system.chunk_bytes is None else self.system.chunk_bytes
        return self._bytes(key) if chunk == "whole" else int(chunk)

    # ---- pieces ---------------------------------------------------------------------------------------------------

    def _move(self, key: Expert, size: int) -> None:
        """A piece: its latency first, then its bytes."""
        gpu = self.there[key]["gpu"]
        self.moving[gpu] = key
        if key[0] == self.turns.layer and not self.there[key]["demanded"]:
            self.turns.piece = key
        latency_s = self.cost.copy_latency_s(size)
        alone_s = self.cost.copy_s(size) - latency_s

        def begin_to_move() -> None:
            self.clock.work(alone_s, lambda: self._arrived(gpu, key, size), moves=gpu, size=size, alone_s=alone_s)

        self.clock.after(latency_s, begin_to_move)

    def _arrived(self, gpu: int, key: Expert, size: int) -> None:
        copy = self.there[key]
        copy["left"] -= size
        self.moving[gpu] = None
        if key == self.in_turn:
            self.in_turn = None
        if key == self.turns.piece:
            self.turns.piece, self.turns.handing_over = None, True
        self.copied_bytes += size
        self.asked.append(gpu)
        if copy["left"]:
            self.saw("several chunks")
            return
        copy["complete"] = True
        if copy["demanded"]:
            copy["demanded"] = False
            self.heard(gpu, key)
        else:
            self.system.evictor.loaded(key, self.clock.now)

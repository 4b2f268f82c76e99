"""Files as BigMoeOnEdge writes them, with the hits of a cache that knows nothing of this project."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HEADER = "turn,phase,step,layer,slot,expert,weight,residency,expert_bytes"


@dataclass
class Engine:
    """An engine under a global LRU of equal slots, and what it counts of distinct experts per iteration and layer."""

    sizes: Sequence[int]  # bytes of an expert of each layer; 0 for a dense one
    experts: int = 16
    top_k: int = 3
    slots: int = 40
    seed: int = 0
    first_in_last_layer: bool = False  # whether the last layer of a prompt runs for all of its tokens
    demanded: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})  # by phase
    hits: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})
    read_bytes: dict[int, int] = field(default_factory=lambda: {0: 0, 1: 0})

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.cache: OrderedDict[tuple[int, int], None] = OrderedDict()
        self.moe = [layer for layer, size in enumerate(self.sizes) if size]

    def comments(self) -> list[str]:
        sizes = f"n_layer={len(self.sizes)} n_expert={self.experts} n_expert_used={self.top_k}"
        lines = ["# route_trace v1", f"# model=/data/my models/tiny-moe-Q4.gguf arch=tiny {sizes}"]
        return lines + [f"# layer={n} expert_bytes={size} dense_bytes=9000" for n, size in enumerate(self.sizes)]

    def turn(self, turn: int, begin: int, prompt: int, decoded: int) -> Iterator[str]:
        """The rows of a turn whose first token is at position `begin`."""
        yield from self._pass(turn, 0, range(begin, begin + prompt))
        for step in range(begin + prompt, begin + prompt + decoded):
            yield from self._pass(turn, 1, range(step, step + 1))

    def _pass(self, turn: int, phase: int, steps: range) -> Iterator[str]:
        for layer in self.moe:
            some = steps if layer < self.moe[-1] or self.first_in_last_layer else steps[-1:]
            favourites = 1 / (1 + np.arange(self.experts))
            chosen = {
                step: self.rng.choice(self.experts, self.top_k, replace=False, p=favourites / favourites.sum()).tolist()
                for step in some
            }
            found = self._event(phase, layer, sorted({expert for experts in chosen.values() for expert in experts}))
            read = set()
            for step, experts in chosen.items():
                weights = np.sort(self.rng.dirichlet(np.ones(self.top_k)))[::-1]
                for slot, expert in enumerate(experts):
                    size = 0 if found[expert] or expert in read else self.sizes[layer]
                    read.add(expert)
                    cells = (turn, phase, step, layer, slot, expert, f"{weights[slot]:.6g}", int(found[expert]), size)
                    yield ",".join(map(str, cells))

    def _event(self, phase: int, layer: int, experts: Sequence[int]) -> dict[int, bool]:
        """All experts of a layer are looked up before the first is loaded."""
        keys = [(layer, expert) for expert in experts]
        found = {expert: key in self.cache for key, expert in zip(keys, experts, strict=True)}
        for key in keys:
            self.cache[key] = None
            self.cache.move_to_end(key)
        while len(self.cache) > self.slots:
            self.cache.popitem(last=False)
        self.demanded[phase] += len(keys)
        self.hits[phase] += sum(found.values())
        self.read_bytes[phase] += self.sizes[layer] * sum(not hit for hit in found.values())
        return found


def route_file(path: Path, engine: Engine, turns: Sequence[tuple[int, int, int]] = ((0, 7, 60),)) -> Path:
    """A file of some turns, each with its first position, prompt and decode steps."""
    rows = [row for number, turn in enumerate(turns) for row in engine.turn(number, *turn)]
    path.write_text("\n".join([*engine.comments(), HEADER, *rows, ""]))
    return path

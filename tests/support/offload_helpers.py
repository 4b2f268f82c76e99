"""Tiny models with their experts offloaded, under a driver of a few lines that copies what is demanded at once."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies.cache.expert_cache import ExpertCache
from policies.cache.residency import RESIDENT
from policies.registry import make_policy
from policies.types import Batch, ChunkBytes, Gate, Prefetch
from tests.support.builders import setup_of
from tests.support.tiny_models import UNKNOWN, VOCABULARY, tiny_model, tiny_tokenizer
from traces.capture.generation import Generated, TokenizedPrompt, generate, generation_config
from traces.capture.model_loading import LoadedModel
from traces.prompts.prompt import Prompt
from validate.offload.arena import Arena
from validate.offload.offloaded_model import OffloadedModel

NEW_TOKENS = 5
CPU = torch.device("cpu")


class SimpleDriver:
    """The driver's calls without threads: copies what is demanded and then what a random plan wants.

    Experts are computed in a random order. All that it is told is kept.
    """

    def __init__(self, cache: ExpertCache, move: Callable[..., None], *, seed: int = 0) -> None:
        self.cache = cache
        self.batches: list[Batch] = []
        self.starting: list[Sequence[int]] = []
        self.ending: list[Sequence[int]] = []
        self.maps: list[np.ndarray] = []
        self.experts: list[np.ndarray] = []
        self.gates: list[list[Gate]] = []
        self.demands: list[list[list[int]]] = []
        self.layers: list[list[int]] = []
        self._move = move
        self._random = random.Random(seed)
        self._now_s = 0.0

    def begin_iteration(self, batch: Batch, starting: Sequence[int]) -> None:
        self.cache.begin_iteration(batch, self._time())
        self.batches.append(batch)
        self.starting.append(starting)
        self.gates.append([])
        self.demands.append([])
        self.layers.append([])

    def begin_layer(self, layer: int) -> None:
        self.layers[-1].append(layer)
        model = self.cache.model
        wanted = self._random.sample(range(model.experts), model.top_k)
        self.cache.plan(Prefetch(self._random.randrange(model.layers), wanted, [1.0] * len(wanted)), self._time())
        self._copy(self._random.randrange(4))

    def gated(self, gate: Gate, experts: Sequence[int]) -> Iterator[int]:
        assert self.layers[-1][-1] == gate.layer
        self.gates[-1].append(gate)
        self.demands[-1].append(list(experts))
        self.cache.demand(gate.layer, experts, self._time())
        base = gate.layer * self.cache.model.experts
        left = set(experts)
        while left:
            self._copy(1000)
            there = sorted(expert for expert in left if self.cache.residency.where[base + expert] == RESIDENT)
            expert = self._random.choice(there)
            yield expert
            left.remove(expert)
            assert self._computed == expert
            now_s = self._time()
            self.cache.release(gate.layer, [expert], now_s, now_s)

    def computed(self, expert: int) -> None:
        self._computed = expert

    def end_iteration(self, maps: np.ndarray, experts: np.ndarray, ending: Sequence[int]) -> None:
        self.maps.append(maps)
        self.experts.append(experts)
        self.ending.append(ending)

    def _copy(self, most: int) -> None:
        """Move up to so many chunks on each link."""
        self.cache.wake.clear()
        for device in self.cache.devices:
            for _ in range(most):
                copy = device.next_copy(self._time())
                if copy is None:
                    break
                self._move(copy)
                device.copied(copy, self._time())

    def _time(self) -> float:
        self._now_s += 1e-6
        return self._now_s


def smallest_slots(top_k: int, devices: int) -> list[int]:
    """As few as are legal: K in all, and one on each device."""
    total = max(top_k, devices)
    return [total // devices + (gpu < total % devices) for gpu in range(devices)]


def all_slots(experts: int, devices: int) -> list[int]:
    return [-(-experts // devices)] * devices


def driven(
    offloaded: OffloadedModel, slots: Sequence[int], *, chunk_bytes: ChunkBytes = "whole", seed: int = 0
) -> tuple[SimpleDriver, Arena]:
    """A cache of least recently used experts with so many slots per device, and what it decides on."""
    shape = offloaded.shape
    evictor = make_policy("lru").evictor
    evictor.start(setup_of(shape))
    cache = ExpertCache(shape, evictor, slots=slots, chunk_bytes=chunk_bytes)
    arena = Arena(offloaded.records, slots=slots, devices=["cpu"] * len(slots), chunk_bytes=cache.chunk_bytes[0])
    return SimpleDriver(cache, arena.move, seed=seed), arena


def tiny_loaded(family: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """A tiny model whose experts are computed by the loop of their own class."""
    model = tiny_model(family, dtype=dtype)
    model.set_experts_implementation("eager")
    return loaded_as(model, family)


def loaded_as(model: Any, name: str = "tiny") -> LoadedModel:
    return LoadedModel(name=name, revision=None, model=model, tokenizer=tiny_tokenizer(), device=CPU)


def prompts_of(lengths: Sequence[int], seed: int = 0, vocabulary: int = VOCABULARY) -> list[TokenizedPrompt]:
    """Random prompts of these lengths."""
    draw = random.Random(seed)
    return [
        TokenizedPrompt(
            request=10 + 3 * number,
            prompt=Prompt(text="", source="", line=1),
            tokens=[draw.randrange(UNKNOWN + 1, vocabulary) for _ in range(length)],
        )
        for number, length in enumerate(lengths)
    ]


def config_of(loaded: LoadedModel, ends: Sequence[int] = ()) -> Any:
    config = generation_config(loaded, max_new_tokens=NEW_TOKENS)
    config.eos_token_id = list(ends) or None
    return config


def served(
    offloaded: OffloadedModel, loaded: LoadedModel, batch: Sequence[TokenizedPrompt], ends: Sequence[int] = ()
) -> Generated:
    """Generate for a batch inside of a run."""
    offloaded.serve([prompt.request for prompt in batch], ends=ends, new_tokens=NEW_TOKENS)
    return generate(loaded, batch, config_of(loaded, ends), logits=True)


def assert_same(one: Generated, other: Generated) -> None:
    """Equal tokens, and logits equal to the last bit."""
    assert one.tokens == other.tokens
    assert one.logits is not None
    assert other.logits is not None
    assert len(one.logits) == len(other.logits)
    for step, (left, right) in enumerate(zip(one.logits, other.logits, strict=True)):
        assert torch.equal(left, right), f"pass {step} differs by up to {(left - right).abs().max()}"


def ending_early(free: Generated) -> list[int]:
    """A token that ends a request early; after its first pass if there is one, and then no request with its first."""
    first = {tokens[0] for tokens in free.tokens}
    later = [token for tokens in free.tokens for token in tokens[1:-1] if token not in first]
    return later[:1] or [free.tokens[-1][0]]


def record_path(folder: Path) -> Path:
    return folder / "experts.records"

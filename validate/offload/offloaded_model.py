"""A Transformers model whose experts lie in slow storage, and the hooks by which it calls a driver.

model       starts   → which rows are tokens of running requests
embedding   has run  → begin_iteration
layer       starts   → begin_layer
router      has run  → what the experts are called with next makes the gate
experts     run      → gated, computed (`validate.offload.offloaded_layer`)
model       has run  → end_iteration
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policies.types import Batch, Bool, Int, ModelShape
from traces.capture.gate_recorder import Arguments, GateRecorder, Keywords, router_logits
from traces.capture.model_loading import LoadedModel
from traces.capture.model_structure import MoeBlock, moe_blocks, shape_of
from traces.capture.router_scores import scores
from validate.driver.threaded_driver import Driver
from validate.offload.arena import Arena
from validate.offload.offloaded_layer import NAME, OffloadedLayer, Rows, install, register
from validate.offload.records import Records, layout_of, open_records, write_records

_PROBE_TOKENS = 16


@dataclass(slots=True)
class _Generation:
    """One call of `generate()`: its requests, the rows of the model's batch, and which of them still run."""

    requests: Int  # [rows] ids
    ends: frozenset[int]
    new_tokens: int
    passes: int = 0
    running: Bool = field(init=False)  # [rows]

    def __post_init__(self) -> None:
        self.running = np.ones(len(self.requests), bool)

    def advance(self, produced: Sequence[int]) -> list[int]:
        """A pass has produced a token `[rows]` for each request; returns the running requests that it ends."""
        self.passes += 1
        over = [token in self.ends for token in produced] if self.passes < self.new_tokens else [True] * len(produced)
        ending: list[int] = self.requests[self.running & over].tolist()
        self.running &= ~np.array(over)
        return ending


class OffloadedModel:
    """A model without its experts, and the records that contain them; `offload` makes it.

    It runs as before, but only inside `run`. `shape` are its sizes with the experts. `score` says how router outputs
    become probabilities. At the distances in `lookahead`, later routers are applied early.
    """

    def __init__(
        self,
        model: Any,
        *,
        blocks: Sequence[MoeBlock],
        records: Records,
        shape: ModelShape,
        score: str,
        lookahead: Sequence[int],
    ) -> None:
        self.model = model
        self.blocks = blocks
        self.records = records
        self.shape = shape
        self.score = score
        self.lookahead = lookahead
        self._run: _Run | None = None

    @contextmanager
    def run(self, driver: Driver, arena: Arena) -> Iterator[None]:
        """Let the model run with its experts in the slots of `arena`, as `driver` decides; iterations count from 0.

        An exception of the driver ends `generate()`. However a run ends, it leaves nothing behind for the next one.
        """
        if self._run is not None:
            raise RuntimeError("a run of this model is open already")
        self._run = run = _Run(self, driver, arena)
        try:
            run.attach()
            yield
        finally:
            run.detach()
            self._run = None

    def serve(self, requests: Sequence[int], *, ends: Sequence[int], new_tokens: int) -> None:
        """Announce the next call of `generate()`: greedy, for these requests in the order of its rows.

        A request ends with its first token among `ends`, or with its `new_tokens`-th token, the call's limit.
        """
        if self._run is None:
            raise RuntimeError("serve() belongs inside run()")
        self._run.generation = _Generation(np.array(requests), frozenset(ends), new_tokens)


def offload(
    loaded: LoadedModel, path: Path, *, score: str | None = None, lookahead: Sequence[int] = ()
) -> OffloadedModel:
    """Move the experts of a loaded model to a record file at `path` and free their memory.

    Their modules lose their parameters, so that nothing can use them by accident. (Meta tensors would not do: on the
    CPU, a product with one is garbage and not an error.) `score` names the routers' score function; by default a pass
    over a few tokens finds it, as in `GateRecorder`. A model that cannot be offloaded is a `UserError`, before anything
    is written.
    """
    model = loaded.model
    blocks = moe_blocks(model)
    layout = layout_of(blocks)
    shape = shape_of(model, name=loaded.name)
    score = score or _probe(model)
    write_records(path, blocks)
    records = open_records(path, layout)
    register()
    model.set_experts_implementation(NAME)
    for block in blocks:
        for part in layout.parts:
            delattr(block.experts, part.name)
    return OffloadedModel(model, blocks=blocks, records=records, shape=shape, score=score, lookahead=lookahead)


def _probe(model: Any) -> str:
    tokens = torch.arange(min(_PROBE_TOKENS, model.config.get_text_config().vocab_size), device=model.device)
    with GateRecorder(model) as recorder, torch.no_grad():
        model(input_ids=tokens[None])
    assert recorder.score is not None  # known from the first pass on
    return recorder.score


class _Run:
    """The hooks of one run, and the model's progress."""

    def __init__(self, offloaded: OffloadedModel, driver: Driver, arena: Arena) -> None:
        self.generation: _Generation | None = None
        self._model = offloaded.model
        self._blocks = offloaded.blocks
        self._score = offloaded.score
        self._lookahead = offloaded.lookahead
        self._driver = driver
        self._rows = Rows()
        count = offloaded.records.layout.experts
        self._layers = [
            OffloadedLayer(layer, count, driver, arena, self._rows) for layer in range(len(offloaded.blocks))
        ]
        self._hooks: list[Any] = []
        self._iteration = 0
        self._tokens = np.zeros(0, np.int32)  # [T] of the running pass
        self._request_row = np.zeros(0, np.int64)  # [T]

    def attach(self) -> None:
        """Register the hooks."""
        model: nn.Module = self._model
        embedding: nn.Module = self._model.get_input_embeddings()
        self._hooks += [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            embedding.register_forward_hook(self._embedded),
            model.register_forward_hook(self._end),
        ]
        for layer, block in zip(self._layers, self._blocks, strict=True):
            install(block.experts, layer)
            decoder = _decoder_layer(model, block.name)
            self._hooks += [
                decoder.register_forward_pre_hook(partial(self._layer_begins, layer.layer)),
                block.router.register_forward_hook(partial(self._routed, layer, block), with_kwargs=True),
            ]

    def detach(self) -> None:
        """Remove everything that `attach` has registered."""
        for hook in self._hooks:
            hook.remove()
        for block in self._blocks:
            install(block.experts, None)

    # ---- hooks, in the order in which they are called ------------------------------------------------------------

    def _begin(self, model: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        tokens: Tensor | None = kwargs.get("input_ids", args[0] if args else None)
        mask: Tensor | None = kwargs.get("attention_mask")
        if tokens is None or (mask is not None and mask.dim() != 2):
            raise ValueError("a run needs input_ids, and an attention mask of [batch, past + sequence] or none")
        generation = self.generation
        if generation is None or len(generation.requests) != len(tokens) or not generation.running.any():
            raise RuntimeError("call serve() before each generate(), to name its requests")
        real = np.broadcast_to(generation.running[:, None], tokens.shape)
        if mask is not None:
            real = real & (mask[:, -tokens.shape[1] :].cpu().numpy() != 0)
        self._rows.real = None if real.all() else np.flatnonzero(real)
        self._rows.experts = []
        self._rows.maps = np.zeros((int(real.sum()), len(self._layers), self._layers[0].count), np.float32)
        self._tokens = tokens.to(torch.int32).cpu().numpy()[real]
        # Rows are counted without requests that have ended.
        self._request_row = np.repeat(np.arange(generation.running.sum()), real.sum(1)[generation.running])

    def _embedded(self, embedding: nn.Module, args: Arguments, output: Tensor) -> None:
        generation = self.generation
        assert generation is not None  # `_begin` has seen it
        vectors = output.detach().to(torch.float16).cpu().numpy().reshape(-1, output.shape[-1])
        real = self._rows.real
        requests = generation.requests[generation.running]
        batch = Batch(
            iteration=self._iteration,
            request=requests,
            row=self._request_row,
            prefill=np.full(len(requests), generation.passes == 0),
            token=self._tokens,
            embedding=(vectors if real is None else vectors[real]).astype(np.float32),
        )
        self._iteration += 1
        self._driver.begin_iteration(batch, requests.tolist() if generation.passes == 0 else ())

    def _layer_begins(self, layer: int, decoder: nn.Module, args: Arguments) -> None:
        self._driver.begin_layer(layer)

    def _routed(
        self,
        layer: OffloadedLayer,
        block: MoeBlock,
        router: nn.Module,
        args: Arguments,
        kwargs: Keywords,
        output: Any,
    ) -> None:
        layer.probs = self._probabilities(output, block)
        for distance in self._lookahead:
            ahead = layer.layer + distance
            if ahead < len(self._blocks):
                later = self._blocks[ahead]
                # `forward` and not a call, so that the later router's own hook does not run.
                layer.ahead[distance] = self._probabilities(later.router.forward(*args, **kwargs), later)
            else:
                layer.ahead[distance] = torch.zeros_like(layer.probs)  # as in a trace

    def _probabilities(self, output: Any, block: MoeBlock) -> Tensor:
        return scores(self._score, router_logits(output, block)).to(torch.float16)

    def _end(self, model: nn.Module, args: Arguments, output: Any) -> None:
        generation = self.generation
        assert generation is not None
        produced: list[int] = output.logits[:, -1].float().argmax(-1).tolist()  # as greedy generation does
        experts = np.stack(self._rows.experts, axis=1)
        self._driver.end_iteration(self._rows.maps, experts, generation.advance(produced))


def _decoder_layer(model: nn.Module, block: str) -> nn.Module:
    """The decoder layer of a block: the first module on its path that is in a list."""
    owner = model
    for name in block.split("."):
        child = owner.get_submodule(name)
        if isinstance(owner, nn.ModuleList):
            return child
        owner = child
    raise AssertionError(f"block {block} is in no list of layers")

"""Record the router scores and executed experts of a Transformers model, without changing a bit of its output.

A hook on each MoE block's router sees the scores of all experts. A hook before its experts sees the indices that are
executed, which are not always the highest-scored ones (expert groups, bias-corrected choices). `output_router_logits`
is not used because it fails inside `generate()` with a padded batch.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from common.errors import UserError
from policies.types import Bool, Float, Int, RecordedRequest
from traces.capture.model_structure import MoeBlock, moe_blocks
from traces.capture.router_scores import DECLARED, fitting_score, scores

Arguments: TypeAlias = tuple[Any, ...]
Keywords: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """One forward pass of a batch, on the host: `S` places per request; `real` marks those that are not padding."""

    real: Bool  # [B, S]
    token: Int  # [B, S] int32
    gate: Float  # [B, S, L, J] float16, sums to 1 over the experts
    experts: Int  # [B, S, L, K] int16, executed, in the router's order
    lookahead: dict[int, Float]  # {d: [B, S, L, J]} float16, zero for the last d layers, which have no router d ahead


@dataclass(slots=True)
class _PassSoFar:
    """What the hooks have recorded of the running pass, on the device; one entry per MoE layer."""

    tokens: Tensor  # [B, S]
    real: Tensor  # [B, S]
    logits: dict[int, Tensor] = field(default_factory=dict)  # [T, J]
    experts: dict[int, Tensor] = field(default_factory=dict)  # [T, K]
    weights: dict[int, Tensor] = field(default_factory=dict)  # [T, K]
    inputs: dict[int, Tensor] = field(default_factory=dict)  # inputs of routers, kept while a later layer needs them
    lookahead: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # {(d, layer): [T, J]}


class GateRecorder:
    """Context manager that records every forward pass of `model` with hooks.

    `lookahead` are distances d ≥ 1: router l + d is also applied to the hidden state that router l received. `score` is
    the function from router outputs to probabilities; by default the first pass determines it (`router_scores.py`).
    Device memory holds one pass; host memory grows until `take()`.
    """

    def __init__(self, model: nn.Module, *, lookahead: Iterable[int] = (), score: str | None = None) -> None:
        self.model = model
        self.lookahead = tuple(sorted(set(lookahead)))
        if self.lookahead and self.lookahead[0] < 1:
            raise ValueError(f"lookahead distances start at 1, not {self.lookahead[0]}")
        self.score = score or DECLARED.get(getattr(getattr(model, "config", None), "model_type", ""))
        self.blocks = moe_blocks(model)
        self._product: dict[int, torch.dtype | None] = {}  # layer -> result of `product_type`
        self._hooks: list[Any] = []
        self._running: _PassSoFar | None = None
        self._passes: list[ForwardPass] = []

    def __enter__(self) -> Self:
        self._hooks = [
            self.model.register_forward_pre_hook(self._begin, with_kwargs=True),
            self.model.register_forward_hook(self._end),
        ]
        for layer, block in enumerate(self.blocks):
            on_router, on_experts = partial(self._on_router, layer), partial(self._on_experts, layer)
            self._hooks.append(block.router.register_forward_hook(on_router, with_kwargs=True))
            self._hooks.append(block.experts.register_forward_pre_hook(on_experts, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._running = None

    def take(self) -> list[ForwardPass]:
        """Remove and return the passes recorded since the last call, oldest first."""
        passes, self._passes = self._passes, []
        return passes

    def _begin(self, model: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        tokens: Tensor | None = kwargs.get("input_ids", args[0] if args else None)
        mask: Tensor | None = kwargs.get("attention_mask")
        if tokens is None or (mask is not None and mask.dim() != 2):
            raise ValueError("recording needs input_ids, and an attention mask of [batch, past + sequence] or none")
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask[:, -tokens.shape[1] :].bool()
        self._running = _PassSoFar(tokens, real.to(tokens.device))

    def _on_router(self, layer: int, router: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        running = self._running
        if running is None:
            return
        block = self.blocks[layer]
        running.logits[layer] = router_logits(output, block)
        if self.lookahead:
            self._look_ahead(running, layer, args, kwargs)

    def _look_ahead(self, running: _PassSoFar, layer: int, args: Arguments, kwargs: Keywords) -> None:
        """Apply this layer's router to the inputs of earlier routers; other arguments stay those of this pass."""
        block = self.blocks[layer]
        name = None if args else next(iter(kwargs))
        seen: Tensor = args[0] if name is None else kwargs[name]
        if running.tokens.shape[1] > 1:  # only at prefills, which are rare and have many tokens
            self._product[layer] = product_type(block.router, seen, running.logits[layer])
        product = self._product.get(layer)
        for distance in self.lookahead:
            earlier = running.inputs.get(layer - distance)
            if earlier is None:
                continue
            earlier = earlier.to(seen.device)
            if product is not None:
                running.lookahead[distance, layer - distance] = matrix_product(block.router, earlier, product)
                continue
            given, named = ((earlier, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: earlier})
            with torch.no_grad():  # `forward` instead of a call, so that the router's hooks do not run
                running.lookahead[distance, layer - distance] = router_logits(
                    block.router.forward(*given, **named), block
                )
        running.inputs[layer] = seen.detach().clone()  # a copy: blocks may overwrite their input in place
        running.inputs.pop(layer - self.lookahead[-1], None)

    def _on_experts(self, layer: int, experts: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        if self._running is None:
            return
        matrices = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() == 2]
        indices = [value for value in matrices if not value.is_floating_point()]
        if not indices:
            raise UserError(f"the experts of block {self.blocks[layer].name} are called without the indices to execute")
        self._running.experts[layer] = indices[0]
        weights = [value for value in matrices if value.is_floating_point() and value.shape == indices[0].shape]
        if weights:
            self._running.weights[layer] = weights[-1]

    @torch.no_grad()
    def _end(self, model: nn.Module, args: Arguments, output: Any) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        self._check_complete(running)
        logits, experts = _stacked(running.logits), _stacked(running.experts)
        if self.score is None:
            self.score = fitting_score(logits, experts, _stacked(running.weights) if running.weights else None)
        every, layers = [logits], range(len(self.blocks))
        for distance in self.lookahead:
            ahead = {layer: running.lookahead.get((distance, layer), running.logits[0]) for layer in layers}
            every.append(_stacked(ahead).to(logits.device))
        gates = scores(self.score, torch.stack(every, 1))
        for place, distance in enumerate(self.lookahead, start=1):
            gates[:, place, max(len(layers) - distance, 0) :] = 0  # these layers have no router so far ahead
        self._passes.append(_on_host(running, gates, experts, self.lookahead))

    def _check_complete(self, running: _PassSoFar) -> None:
        for layer, block in enumerate(self.blocks):
            if layer not in running.logits or layer not in running.experts:
                what = "router" if layer not in running.logits else "experts"
                raise UserError(f"the forward pass did not call the {what} of block {block.name}")


def router_logits(output: Any, block: MoeBlock) -> Tensor:
    """`[T, J]`: the first of the router's outputs whose width is the number of experts.

    Model families return it alone, or together with the chosen experts and their weights in varying order.
    """
    for value in output if isinstance(output, tuple) else (output,):
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1] == block.count:
            return value.detach().reshape(-1, block.count)
    raise UserError(f"the router of block {block.name} does not give a score to each of its {block.count} experts")


def product_type(router: nn.Module, seen: Tensor, logits: Tensor) -> torch.dtype | None:
    """The data type in which `logits` equal, to the bit, `seen` times the router's matrix; None if there is none.

    With such a type, looking ahead needs only this product, not the choice of experts that the router does afterwards.
    """
    weight = getattr(router, "weight", None)
    if (
        not isinstance(weight, Tensor)
        or weight.device != seen.device
        or weight.shape != (logits.shape[-1], seen.shape[-1])
    ):
        return None  # another kind of router, or offloaded weights
    for dtype in dict.fromkeys((seen.dtype, torch.float32)):
        if weight.dtype == dtype or dtype == torch.float32:
            product = matrix_product(router, seen, dtype)
            if product.dtype == logits.dtype and torch.equal(product, logits):
                return dtype
    return None


def matrix_product(router: nn.Module, seen: Tensor, dtype: torch.dtype) -> Tensor:
    """`[T, J]`: the router's matrix, and its bias if it has one, applied to hidden states `[…, h]`."""
    weight: Any = router.weight
    bias: Any = getattr(router, "bias", None)
    flat = seen.reshape(-1, seen.shape[-1]).to(dtype)
    return functional.linear(flat, weight.to(dtype), bias if bias is None else bias.to(dtype)).detach()


def _stacked(layers: dict[int, Tensor]) -> Tensor:
    """`[T, L, …]` from one tensor per layer; gathered on the first layer's device if the model is spread."""
    device = layers[0].device
    return torch.stack([layers[layer].to(device) for layer in range(len(layers))], 1)


def _on_host(running: _PassSoFar, gates: Tensor, experts: Tensor, distances: Sequence[int]) -> ForwardPass:
    """Copy a pass to the host in one transfer of 16-bit columns: `gates` `[T, 1 + D, L, J]`, `experts` `[T, L, K]`."""
    tokens = gates.shape[0]
    device = gates.device
    parts = [
        running.real.to(device, torch.int16).view(tokens, 1),
        running.tokens.to(device, torch.int32).reshape(tokens, 1).view(torch.int16),
        experts.to(torch.int16).flatten(1),
        gates.to(torch.float16).flatten(1).view(torch.int16),
    ]
    packed = torch.cat(parts, 1).cpu().numpy()
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    real, token, executed, scored = (np.ascontiguousarray(part) for part in np.split(packed, edges, axis=1))
    place = running.tokens.shape  # (B, S)
    scored = scored.view(np.float16).reshape(*place, *gates.shape[1:])
    return ForwardPass(
        real=real.reshape(place) != 0,
        token=token.view(np.int32).reshape(place),
        gate=scored[:, :, 0],
        experts=executed.reshape(*place, *experts.shape[1:]),
        lookahead={distance: scored[:, :, 1 + index] for index, distance in enumerate(distances)},
    )


def requests_of(
    passes: Sequence[ForwardPass], generated: Sequence[int], requests: Sequence[int], sources: Sequence[str]
) -> list[RecordedRequest]:
    """The recordings of a batch's requests, one per row of the passes.

    Request b generated `generated[b]` tokens, so only that many passes count; in later passes it was padding beside
    unfinished requests. Padding places are dropped and do not count as positions.
    """
    return [
        _request_of(passes[: generated[row]], row, request, source)
        for row, (request, source) in enumerate(zip(requests, sources, strict=True))
    ]


def requests_of_texts(
    whole: ForwardPass, prompts: Sequence[int], requests: Sequence[int], sources: Sequence[str]
) -> list[RecordedRequest]:
    """The recordings of texts that one pass read as a whole, one per row of the pass.

    The first `prompts[b]` tokens of row b are iteration 0; each later token is an iteration of its own.
    """
    recorded = []
    for row, (prompt, request, source) in enumerate(zip(prompts, requests, sources, strict=True)):
        one = _request_of([whole], row, request, source)
        recorded.append(replace(one, iteration=np.maximum(one.position - (prompt - 1), 0)))
    return recorded


def _ahead(distance: int, one: ForwardPass) -> Float:
    return one.lookahead[distance]


def _request_of(passes: Sequence[ForwardPass], row: int, request: int, source: str) -> RecordedRequest:
    counts = [int(one.real[row].sum()) for one in passes]

    def rows(pick: Callable[[ForwardPass], Any]) -> Any:
        return np.concatenate([pick(one)[row][one.real[row]] for one in passes])

    return RecordedRequest(
        request=request,
        source=source,
        iteration=np.repeat(np.arange(len(passes), dtype=np.int32), counts),
        position=np.arange(sum(counts), dtype=np.int32),
        token=rows(lambda one: one.token),
        gate=rows(lambda one: one.gate),
        experts=rows(lambda one: one.experts),
        lookahead={distance: rows(partial(_ahead, distance)) for distance in passes[0].lookahead},
    )

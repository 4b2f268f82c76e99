"""Record what the routers of a Transformers model say and which experts it runs, without changing a bit of its output.

Hooks on each MoE block's router give the scores of all experts; a hook before its experts gives the indices that are
really executed, which are not always the best-scored ones (groups, bias-corrected choices). `output_router_logits` is
not used: it fails inside `generate()` with a padded batch (`reference/field.md`).
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
    """One forward pass of a batch, on the host: `S` places per request, of which `real` are tokens and not padding."""

    real: Bool  # [B, S]
    token: Int  # [B, S] int32
    gate: Float  # [B, S, L, J] float16, sums to 1 over the experts
    experts: Int  # [B, S, L, K] int16, executed, in the router's order
    lookahead: dict[int, Float]  # {d: [B, S, L, J]} float16, zero for the last d layers, which have no router d ahead


@dataclass(slots=True)
class _Heard:
    """What the hooks of the running pass have heard so far, on the device; one entry per MoE layer."""

    tokens: Tensor  # [B, S]
    real: Tensor  # [B, S]
    logits: dict[int, Tensor] = field(default_factory=dict)  # [T, J]
    experts: dict[int, Tensor] = field(default_factory=dict)  # [T, K]
    weights: dict[int, Tensor] = field(default_factory=dict)  # [T, K]
    inputs: dict[int, Tensor] = field(default_factory=dict)  # what a router saw, while a later layer needs it
    lookahead: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # {(d, layer): [T, J]}


class GateRecorder:
    """Hooks that record every forward pass of `model` while the recorder is a context.

    `lookahead` are distances d ≥ 1: router l + d is also applied to the hidden state that router l saw. `score` says
    how the routers' outputs become probabilities; without it the first pass tells (`router_scores.py`). Memory on the
    device is that of one pass, on the host it grows until `take()`.
    """

    def __init__(self, model: nn.Module, *, lookahead: Iterable[int] = (), score: str | None = None) -> None:
        self.model = model
        self.lookahead = tuple(sorted(set(lookahead)))
        if self.lookahead and self.lookahead[0] < 1:
            raise ValueError(f"lookahead distances start at 1, not {self.lookahead[0]}")
        self.score = score or DECLARED.get(getattr(getattr(model, "config", None), "model_type", ""))
        self.blocks = moe_blocks(model)
        self._product: dict[int, torch.dtype | None] = {}  # how a layer's router is one matrix product, if it is
        self._hooks: list[Any] = []
        self._heard: _Heard | None = None
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
        self._heard = None

    def take(self) -> list[ForwardPass]:
        """The passes since the last call, oldest first; the recorder forgets them."""
        passes, self._passes = self._passes, []
        return passes

    def _begin(self, model: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        tokens: Tensor | None = kwargs.get("input_ids", args[0] if args else None)
        mask: Tensor | None = kwargs.get("attention_mask")
        if tokens is None or (mask is not None and mask.dim() != 2):
            raise ValueError("recording needs input_ids, and an attention mask of [batch, past + sequence] or none")
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask[:, -tokens.shape[1] :].bool()
        self._heard = _Heard(tokens, real.to(tokens.device))

    def _on_router(self, layer: int, router: nn.Module, args: Arguments, kwargs: Keywords, output: Any) -> None:
        heard = self._heard
        if heard is None:
            return
        block = self.blocks[layer]
        heard.logits[layer] = router_logits(output, block)
        if self.lookahead:
            self._look_ahead(heard, layer, args, kwargs)

    def _look_ahead(self, heard: _Heard, layer: int, args: Arguments, kwargs: Keywords) -> None:
        """Apply this layer's router to what earlier routers saw; its further arguments are those of this pass."""
        block = self.blocks[layer]
        name = None if args else next(iter(kwargs))
        seen: Tensor = args[0] if name is None else kwargs[name]
        if heard.tokens.shape[1] > 1:  # at every prefill: seldom, and on many tokens
            self._product[layer] = product_type(block.router, seen, heard.logits[layer])
        product = self._product.get(layer)
        for distance in self.lookahead:
            earlier = heard.inputs.get(layer - distance)
            if earlier is None:
                continue
            earlier = earlier.to(seen.device)
            if product is not None:
                heard.lookahead[distance, layer - distance] = matrix_product(block.router, earlier, product)
                continue
            given, named = ((earlier, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: earlier})
            with torch.no_grad():  # `forward` and not a call: the router's hooks must not hear this
                heard.lookahead[distance, layer - distance] = router_logits(
                    block.router.forward(*given, **named), block
                )
        heard.inputs[layer] = seen.detach().clone()  # a copy: blocks may overwrite their input in place
        heard.inputs.pop(layer - self.lookahead[-1], None)

    def _on_experts(self, layer: int, experts: nn.Module, args: Arguments, kwargs: Keywords) -> None:
        if self._heard is None:
            return
        matrices = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() == 2]
        indices = [value for value in matrices if not value.is_floating_point()]
        if not indices:
            raise UserError(f"the experts of block {self.blocks[layer].name} are called without the indices to execute")
        self._heard.experts[layer] = indices[0]
        weights = [value for value in matrices if value.is_floating_point() and value.shape == indices[0].shape]
        if weights:
            self._heard.weights[layer] = weights[-1]

    @torch.no_grad()
    def _end(self, model: nn.Module, args: Arguments, output: Any) -> None:
        heard, self._heard = self._heard, None
        if heard is None:
            return
        self._check_complete(heard)
        logits, experts = _stacked(heard.logits), _stacked(heard.experts)
        if self.score is None:
            self.score = fitting_score(logits, experts, _stacked(heard.weights) if heard.weights else None)
        every, layers = [logits], range(len(self.blocks))
        for distance in self.lookahead:
            ahead = {layer: heard.lookahead.get((distance, layer), heard.logits[0]) for layer in layers}
            every.append(_stacked(ahead).to(logits.device))
        gates = scores(self.score, torch.stack(every, 1))
        for place, distance in enumerate(self.lookahead, start=1):
            gates[:, place, max(len(layers) - distance, 0) :] = 0  # these layers have no router so far ahead
        self._passes.append(_on_host(heard, gates, experts, self.lookahead))

    def _check_complete(self, heard: _Heard) -> None:
        for layer, block in enumerate(self.blocks):
            if layer not in heard.logits or layer not in heard.experts:
                what = "router" if layer not in heard.logits else "experts"
                raise UserError(f"the forward pass did not call the {what} of block {block.name}")


def router_logits(output: Any, block: MoeBlock) -> Tensor:
    """`[T, J]`: the first of the router's outputs that is as wide as there are experts.

    Families return it alone, or with the chosen experts and their weights, and Transformers 5.17 in another order.
    """
    for value in output if isinstance(output, tuple) else (output,):
        if isinstance(value, Tensor) and value.is_floating_point() and value.shape[-1] == block.count:
            return value.detach().reshape(-1, block.count)
    raise UserError(f"the router of block {block.name} does not give a score to each of its {block.count} experts")


def product_type(router: nn.Module, seen: Tensor, logits: Tensor) -> torch.dtype | None:
    """The type of numbers in which `logits` are, to the bit, `seen` times the router's matrix; None if in none.

    Looking ahead then needs that product only, and not the choice of experts that follows it in the router's forward.
    """
    weight = getattr(router, "weight", None)
    if (
        not isinstance(weight, Tensor)
        or weight.device != seen.device
        or weight.shape != (logits.shape[-1], seen.shape[-1])
    ):
        return None  # another kind of router, or its weights are away
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
    """`[T, L, …]` from a tensor per layer; a model spread over devices is gathered on the first layer's."""
    device = layers[0].device
    return torch.stack([layers[layer].to(device) for layer in range(len(layers))], 1)


def _on_host(heard: _Heard, gates: Tensor, experts: Tensor, distances: Sequence[int]) -> ForwardPass:
    """One copy from the device for everything: `gates` `[T, 1 + D, L, J]`, `experts` `[T, L, K]`, as 16-bit columns."""
    tokens = gates.shape[0]
    device = gates.device
    parts = [
        heard.real.to(device, torch.int16).view(tokens, 1),
        heard.tokens.to(device, torch.int32).reshape(tokens, 1).view(torch.int16),
        experts.to(torch.int16).flatten(1),
        gates.to(torch.float16).flatten(1).view(torch.int16),
    ]
    packed = torch.cat(parts, 1).cpu().numpy()
    edges = np.cumsum([part.shape[1] for part in parts])[:-1]
    real, token, executed, scored = (np.ascontiguousarray(part) for part in np.split(packed, edges, axis=1))
    place = heard.tokens.shape  # (B, S)
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

    `generated[b]` tokens came out of request b: its first so many passes count, the rest ran on padding beside
    unfinished neighbours. Places that are padding are dropped, and positions count without them.
    """
    return [
        _request_of(passes[: generated[row]], row, request, source)
        for row, (request, source) in enumerate(zip(requests, sources, strict=True))
    ]


def requests_of_texts(
    whole: ForwardPass, prompts: Sequence[int], requests: Sequence[int], sources: Sequence[str]
) -> list[RecordedRequest]:
    """The recordings of texts that one pass has read as a whole, one per row of the pass.

    The first `prompts[b]` tokens of row b are iteration 0, each token after them is an iteration of its own.
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

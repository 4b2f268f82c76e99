"""Find the MoE blocks of a Transformers model by structure, and read the sizes that costs depend on.

The rule works for every model family of Transformers ≥ 5.17 whose experts are one fused module: a block has a child
`experts`, and beside it a router called `gate` or `router`, which the block calls first.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn

from common.errors import UserError
from policies.types import ModelShape


@dataclass(frozen=True, slots=True)
class MoeBlock:
    """One MoE layer: the block's path in the model, its router and its fused experts."""

    name: str
    router: nn.Module
    experts: nn.Module
    count: int  # J, routed experts


def moe_blocks(model: nn.Module) -> list[MoeBlock]:
    """The `L` MoE blocks in layer order; raises `UserError` that states what is missing if there are none.

    Dense layers are skipped, so the first MoE layer is layer 0 of a trace wherever it is in the model.
    """
    owners = [(name, owner) for name, owner in model.named_modules() if _child(owner, "experts")]
    if not owners:
        raise UserError(f"{_family(model)} has no experts: no block of the model has a child named 'experts'")
    blocks = [_block(model, name, owner) for name, owner in owners]
    counts = {block.count for block in blocks}
    if len(counts) > 1:
        raise UserError(f"{_family(model)} has layers with different numbers of experts: {sorted(counts)}")
    return blocks


def _block(model: nn.Module, name: str, owner: nn.Module) -> MoeBlock:
    experts = _child(owner, "experts")
    router = _child(owner, "gate") or _child(owner, "router")
    if router is None:
        raise UserError(
            f"{_family(model)}: no router ('gate' or 'router') was found beside the experts of block {name}"
        )
    count = getattr(experts, "num_experts", None)
    if experts is None or not isinstance(count, int):
        raise UserError(f"{_family(model)}: the experts of block {name} are not one module with 'num_experts'")
    return MoeBlock(name, router, experts, count)


def shape_of(model: nn.Module, *, name: str) -> ModelShape:
    """The sizes of a loaded model, read from its experts' parameters and its configuration."""
    blocks = moe_blocks(model)
    config = _config(model)
    heads = int(config.num_attention_heads)
    hidden = int(config.hidden_size)
    weights = [value for key, value in blocks[0].experts.named_parameters() if "bias" not in key]
    return ModelShape(
        name=name,
        layers=len(blocks),
        experts=blocks[0].count,
        top_k=_top_k(model, blocks[0]),
        hidden=hidden,
        # The width of a gated expert with the same number of weights, independent of their layout and names.
        expert_ffn=round(sum(value.numel() for value in weights) / (3 * hidden * blocks[0].count)),
        shared_ffn=round(_shared_weights(model, blocks[0]) / (3 * hidden)),
        attention_heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "v_head_dim", None) or getattr(config, "head_dim", None) or hidden // heads),
        vocab=int(config.vocab_size),
        weight_bytes=float(weights[0].element_size()),
    )


def _top_k(model: nn.Module, block: MoeBlock) -> int:
    """`K`, from the router or the block if possible, since its name in configurations varies."""
    config = _config(model)
    places = [
        (block.router, "top_k"),
        (model.get_submodule(block.name), "top_k"),
        (config, "num_experts_per_tok"),
        (config, "top_k_experts"),
    ]
    for holder, key in places:
        value = getattr(holder, key, None)
        if isinstance(value, int):
            return value
    raise UserError(f"{_family(model)}: neither block {block.name} nor the configuration has a 'top_k'")


def _shared_weights(model: nn.Module, block: MoeBlock) -> int:
    """Number of weights of the shared experts in the layer of `block`, inside the block or beside it."""
    weights = 0
    for place in (block.name, block.name.rpartition(".")[0]):
        for key, child in model.get_submodule(place).named_children():
            # A single matrix named "shared…" is the gate of the shared expert.
            if key.startswith("shared") and not isinstance(child, nn.Linear):
                weights += sum(value.numel() for value in child.parameters() if value.dim() > 1)
    return weights


def _child(owner: nn.Module, name: str) -> nn.Module | None:
    found = getattr(owner, name, None)
    return found if isinstance(found, nn.Module) else None


def _config(model: nn.Module) -> Any:
    """The configuration of the language model, which may be a part of a larger model."""
    whole: Any = model.config
    return whole.get_text_config()


def _family(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    return f"model of type {getattr(config, 'model_type', type(model).__name__)!r}"

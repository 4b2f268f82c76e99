"""Build an untrained Transformers model from an `Architecture`.

There is one function per model family; to add a family, add a function and a line in `_FAMILIES`.
"""

from collections.abc import Callable
from typing import Any

from common.errors import unknown
from traces.pocket import Model
from traces.pocket.recipe import Architecture
from traces.pocket_training.tokenizer import END_ID, PAD_ID


def build(architecture: Architecture, seed: int) -> Model:
    """A float32 model with new weights; the same architecture and seed give the same weights.

    Sets the seed of torch's global generator, from which Transformers initialises, and restores its state afterwards.
    """
    import torch

    if architecture.family not in _FAMILIES:
        raise unknown("model family", architecture.family, _FAMILIES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _FAMILIES[architecture.family](architecture)
        with torch.no_grad():
            for router in routers(model):
                router.weight.normal_(0.0, architecture.router_std)
    return model


def untrained(architecture: Architecture, seed: int) -> Model:
    """The control: a model before training, rounded to bfloat16 like a stored model and run in float32."""
    import torch

    return build(architecture, seed).to(torch.bfloat16).to(torch.float32).eval()


def routers(model: Model) -> list[Any]:
    """The model's routers in layer order: modules called `gate` or `router` with a `weight` `[J, h]`."""
    return [
        module
        for name, module in model.named_modules()
        if name.rsplit(".", 1)[-1] in ("gate", "router") and hasattr(module, "weight")
    ]


def _mixtral(architecture: Architecture) -> Model:
    from transformers import MixtralForCausalLM

    configuration: Any = MixtralForCausalLM.config_class
    return MixtralForCausalLM(
        configuration(
            **_common(architecture),
            intermediate_size=architecture.expert_ffn,
            num_local_experts=architecture.experts,
        )
    )


def _qwen2_moe(architecture: Architecture) -> Model:
    """Like Qwen1.5-MoE: every layer has a shared expert, and the weights of the chosen experts do not sum to 1."""
    from transformers import Qwen2MoeForCausalLM

    configuration: Any = Qwen2MoeForCausalLM.config_class
    return Qwen2MoeForCausalLM(
        configuration(
            **_common(architecture),
            intermediate_size=architecture.shared_ffn,  # for dense layers; there are none
            moe_intermediate_size=architecture.expert_ffn,
            shared_expert_intermediate_size=architecture.shared_ffn,
            num_experts=architecture.experts,
            norm_topk_prob=False,
        )
    )


def _phimoe(architecture: Architecture) -> Model:
    """The router is SparseMixer-v2: in training it samples among near-best experts, later it takes the best two."""
    from transformers import PhimoeForCausalLM

    configuration: Any = PhimoeForCausalLM.config_class
    return PhimoeForCausalLM(
        configuration(
            **_common(architecture),
            intermediate_size=architecture.expert_ffn,
            num_local_experts=architecture.experts,
            router_jitter_noise=0.01,
        )
    )


def _common(architecture: Architecture) -> dict[str, Any]:
    """The settings with the same name in the configurations of all families."""
    return {
        "vocab_size": architecture.vocabulary,
        "hidden_size": architecture.hidden,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.attention_heads,
        "num_key_value_heads": architecture.kv_heads,
        "num_experts_per_tok": architecture.top_k,
        "max_position_embeddings": architecture.max_positions,
        "initializer_range": architecture.initializer_range,
        "tie_word_embeddings": True,
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "experts_implementation": "grouped_mm",
    }


_FAMILIES: dict[str, Callable[[Architecture], Model]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "phimoe": _phimoe,
}

"""From an `Architecture` to an untrained Transformers model.

One function per model family; a further family is one function and one line in `_FAMILIES`.
"""

from collections.abc import Callable
from typing import Any

from common.errors import unknown
from traces.pocket import Model
from traces.pocket.recipe import Architecture
from traces.pocket_training.tokenizer import END_ID, PAD_ID


def build(architecture: Architecture, seed: int) -> Model:
    """A float32 model with fresh weights; the same architecture and seed give the same weights.

    The seed is set on torch's global generator, since Transformers initialises from it, and restored afterwards.
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
    """The control: a fresh model, rounded to bfloat16 as a stored one is and run in float32."""
    import torch

    return build(architecture, seed).to(torch.bfloat16).to(torch.float32).eval()


def routers(model: Model) -> list[Any]:
    """The routers of the model in layer order: modules with a `weight` of `[J, h]`, named `gate` or `router`."""
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
    """As in Qwen1.5-MoE, every layer has a shared expert, and the weights of the chosen experts do not sum to 1."""
    from transformers import Qwen2MoeForCausalLM

    configuration: Any = Qwen2MoeForCausalLM.config_class
    return Qwen2MoeForCausalLM(
        configuration(
            **_common(architecture),
            intermediate_size=architecture.shared_ffn,  # of dense layers, of which there are none
            moe_intermediate_size=architecture.expert_ffn,
            shared_expert_intermediate_size=architecture.shared_ffn,
            num_experts=architecture.experts,
            norm_topk_prob=False,
        )
    )


def _phimoe(architecture: Architecture) -> Model:
    """The router is SparseMixer-v2: while training it draws among near-best experts, later it takes the best two."""
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
    """The settings that the configurations of all families name alike."""
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

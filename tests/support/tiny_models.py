"""Tiny random checkpoints of published architectures, and a tokenizer for them: what the collector is tested on.

Weights are drawn so that routers differ from token to token; nothing is downloaded.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 199
HIDDEN = 48
PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_LATENT_ATTENTION: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
}
_DEEPSEEK: dict[str, Any] = {
    **_LATENT_ATTENTION,
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "n_routed_experts": 16,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
}
_QWEN3: dict[str, Any] = {
    "intermediate_size": 64,
    "moe_intermediate_size": 24,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "head_dim": 12,
    "norm_topk_prob": True,
}

SETTINGS: dict[str, dict[str, Any]] = {
    "mixtral": {"intermediate_size": 40, "num_local_experts": 8, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 56,
        "num_experts": 12,
        "num_experts_per_tok": 4,
    },
    "phimoe": {"intermediate_size": 40, "num_local_experts": 16, "num_experts_per_tok": 2},
    "olmoe": {"intermediate_size": 24, "num_experts": 16, "num_experts_per_tok": 8},
    "qwen3_moe": _QWEN3,
    "deepseek_v2": {**_DEEPSEEK, "n_shared_experts": 2, "topk_method": "group_limited_greedy"},
    "deepseek_v3": {**_DEEPSEEK, "n_shared_experts": 1},
    "gpt_oss": {
        "intermediate_size": 40,
        "num_local_experts": 8,
        "num_experts_per_tok": 4,
        "head_dim": 12,
        "sliding_window": 64,
    },
    "granitemoe": {"intermediate_size": 40, "num_local_experts": 8, "num_experts_per_tok": 2},
    "granitemoeshared": {
        "intermediate_size": 40,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 32,
    },
    "glm4_moe": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "head_dim": 12,
    },
    "ernie4_5_moe": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "moe_num_experts": 16,
        "moe_k": 4,
        "moe_num_shared_experts": 1,
    },
    "flex_olmo": {"intermediate_size": 24, "num_experts": 16, "num_experts_per_tok": 4},
    "minimax_m2": {"intermediate_size": 24, "num_local_experts": 16, "num_experts_per_tok": 4, "head_dim": 12},
    "hunyuan_v1_moe": {"intermediate_size": 24, "num_experts": 8, "moe_topk": 2, "head_dim": 12},
    "lfm2_moe": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_dense_layers": 1,
        "layer_types": ["full_attention", "conv", "full_attention"],
    },
    "glm4_moe_lite": {**_DEEPSEEK, "n_shared_experts": 1, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "exaone_moe": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "num_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
        "head_dim": 12,
    },
    "solar_open": {
        "moe_intermediate_size": 24,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "head_dim": 12,
    },
    "minimax": {
        "intermediate_size": 24,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "head_dim": 12,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "qwen3_next": {
        **_QWEN3,
        "shared_expert_intermediate_size": 56,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 12,
        "linear_value_head_dim": 12,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "dots1": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 2,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
        "head_dim": 12,
    },
    "afmoe": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "num_dense_layers": 1,
        "head_dim": 12,
    },
    "jamba": {
        "intermediate_size": 40,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 0,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "use_mamba_kernels": False,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "num_hidden_layers": 4,
    },
    "gemma4_text": {
        "intermediate_size": 64,
        "moe_intermediate_size": 24,
        "enable_moe_block": True,
        "num_experts": 8,
        "top_k_experts": 2,
        "head_dim": 12,
        "global_head_dim": 12,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": VOCABULARY,
        "num_kv_shared_layers": 0,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "llama4_text": {
        "intermediate_size": 24,
        "intermediate_size_mlp": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 1,
        "head_dim": 12,
        "interleave_moe_layer_step": 1,
    },
    "jetmoe": {"intermediate_size": 24, "num_local_experts": 8, "num_experts_per_tok": 2, "kv_channels": 12},
    "dbrx": {
        "d_model": HIDDEN,
        "n_heads": 4,
        "n_layers": 3,
        "max_seq_len": 128,
        "ffn_config": {
            "ffn_hidden_size": 24,
            "moe_num_experts": 8,
            "moe_top_k": 2,
            "ffn_act_fn": {"name": "silu"},
        },
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
    },
    "llama": {"intermediate_size": 64},
}


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32, seed: int = 0) -> Any:
    """A random causal language model of `family`, in evaluation mode."""
    torch.manual_seed(seed)
    common = {k: v for k, v in _COMMON.items() if family != "dbrx" or k.endswith("_id") or k == "vocab_size"}
    config = AutoConfig.for_model(family, **{**common, **SETTINGS[family]})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            spread = _spread(name, value)
            if spread:
                value.normal_(0, spread)
    return model.eval()


def _spread(name: str, value: torch.Tensor) -> float:
    """Standard deviation of a parameter's draw; 0 leaves it as it is (norms, tables of rotations and decays)."""
    if not value.is_floating_point() or any(part in name for part in ("rotary", "inv_freq", "decay", "slope_rate")):
        return 0.0
    if "correction_bias" in name or "expert_bias" in name or "moe_statics" in name:
        return 0.05  # chooses other experts than the probabilities alone would
    if value.dim() >= 2:
        return 0.15 if "gate.weight" in name or "router" in name else 0.12
    return 0.05 if name.endswith("bias") else 0.0


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Words `w4` … `w198` are their own number; a start token is set before every prompt."""
    vocabulary = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": UNKNOWN}
    vocabulary |= {f"w{number}": number for number in range(UNKNOWN + 1, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def save_tiny(folder: Path, family: str, **keywords: Any) -> Path:
    """Write a tiny checkpoint with its tokenizer to `folder`, as a published one lies on disk."""
    model = tiny_model(family, **keywords)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def padded(lengths: tuple[int, ...] = (5, 9, 14), seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random prompts of these lengths, padded on the left: token ids `[B, S]` and the mask of real ones."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    tokens = torch.full((len(lengths), width), PAD)
    mask = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, width - length :] = torch.randint(UNKNOWN + 1, VOCABULARY, (length,), generator=generator)
        mask[row, width - length :] = 1
    return tokens, mask

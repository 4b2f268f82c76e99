"""Measure the processor time of a Transformers model beside its GPU's work, per layer and per expert."""

import inspect
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig

from policies.types import ModelShape
from validate.rates.device_timer import DeviceTimer

_LAYERS = (2, 4)
_PROMPT = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """A decode step of one token: its wall time, and how long its kernels kept the GPU busy."""

    model: str
    layers: int
    experts: int  # that each layer executes
    wall_s: float
    busy_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameworkTime:
    """Wall time of each layer, each executed expert and each step during which the GPU is idle."""

    layer_s: float
    expert_s: float
    step_s: float


def step_times(shape: ModelShape, timer: DeviceTimer, dtype: torch.dtype, top_ks: tuple[int, ...]) -> list[StepTime]:
    """Time decode steps of models with few layers and random weights, for each number of experts per token."""
    found = []
    for layers in _LAYERS:
        model = _model(shape, layers, timer.device, dtype)
        model.set_experts_implementation("eager")
        for top_k in top_ks:
            for module in model.modules():
                if hasattr(module, "top_k"):
                    module.top_k = top_k
            wall_s, busy_s = _step(model, timer)
            found.append(StepTime(model=shape.name, layers=layers, experts=top_k, wall_s=wall_s, busy_s=busy_s))
        del model
        if timer.on_gpu:
            torch.cuda.empty_cache()
    return found


def framework_time(steps: list[StepTime]) -> FrameworkTime:
    """Fit the GPU's idle time in a step as a sum of a time per step, per layer and per expert of a layer."""
    causes = np.array([[1, one.layers, one.layers * one.experts] for one in steps], float)
    idle_s = np.array([max(0.0, one.wall_s - one.busy_s) for one in steps])
    step_s, layer_s, expert_s = np.linalg.lstsq(causes, idle_s, rcond=None)[0]
    return FrameworkTime(
        layer_s=max(0.0, float(layer_s)), expert_s=max(0.0, float(expert_s)), step_s=max(0.0, float(step_s))
    )


def _model(shape: ModelShape, layers: int, device: torch.device, dtype: torch.dtype) -> Any:
    common: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": shape.attention_heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocab,
        "num_experts_per_tok": shape.top_k,
        "attn_implementation": "sdpa",
    }
    if shape.shared_ffn:
        config: Any = Qwen2MoeConfig(
            **common,
            intermediate_size=shape.shared_ffn,
            moe_intermediate_size=shape.expert_ffn,
            shared_expert_intermediate_size=shape.shared_ffn,
            num_experts=shape.experts,
        )
    else:
        config = MixtralConfig(**common, intermediate_size=shape.expert_ffn, num_local_experts=shape.experts)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def _step(model: Any, timer: DeviceTimer) -> tuple[float, float]:
    """Wall and busy seconds of a decode step; the wall time is a median."""
    tokens = torch.arange(_PROMPT, device=timer.device)[None]
    one = tokens[:, :1]
    with torch.no_grad():
        kept = {_cache_argument(model): model(tokens, use_cache=True).past_key_values}
        walls = []
        for _ in range(4 + 3 * timer.repeats):
            timer.wait()
            begun_s = time.perf_counter()
            model(one, **kept, use_cache=True).logits.argmax(-1).tolist()
            walls.append(time.perf_counter() - begun_s)
        wall_s = median(walls[4:])
        if not timer.on_gpu:
            return wall_s, 0.0
        steps = timer.repeats
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(steps):
                model(one, **kept, use_cache=True)
            timer.wait()
    busy_us = sum(event.self_device_time_total for event in profile.key_averages())
    return wall_s, busy_us / steps / 1e6


def _cache_argument(model: Any) -> str:
    """The name that this version of Transformers gives to the keys and values of earlier tokens."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"

"""Measure the rates of this machine, for a data sheet with which any model can be simulated.

Operations are timed on the device itself, as graphs, with the shapes of published models. Copies are timed as the host
waits for them. The serving framework's own time is measured with a Transformers model of random weights. One GPU is not
enough to measure the total rate of several links from host memory, or links between GPUs.
"""

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import transformers

from common.errors import FieldError
from common.progress import bar
from policies.types import ModelShape
from sim.hardware.costs import Cost
from traces.published_models import published
from validate.calibration.search_time import SearchTime, search_time
from validate.rates.contention import MeasuredContention, contention
from validate.rates.copy_rates import copy_times
from validate.rates.device_timer import DeviceTimer, Timing
from validate.rates.fitted_rates import Peaks
from validate.rates.framework_time import StepTime, step_times
from validate.rates.operations import Operations, OperationTime, operation_times
from validate.rates.rate_settings import RateSettings

_MODELS = ("mixtral-8x7b", "phi-3.5-moe", "qwen1.5-moe-a2.7b")
_CONTEXT = 512  # of a decode step
_TOP_KS = {"mixtral-8x7b": (1, 2, 4, 8), "qwen1.5-moe-a2.7b": (1, 4, 16, 48)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurements:
    """All that was measured."""

    settings: RateSettings
    facts: dict[str, Any]
    """Hardware and software."""
    models: list[ModelShape]
    peaks: Peaks
    memory_bytes: float | None
    """Memory of the GPU; None for a CPU."""
    copies: dict[str, dict[int, Timing]]
    """By kind of host memory and bytes."""
    operations: list[OperationTime]
    contentions: list[MeasuredContention]
    steps: list[StepTime]
    search: SearchTime

    def shape(self, name: str) -> ModelShape:
        """The measured shape of this name."""
        return next(model for model in self.models if model.name == name)

    def to_data(self) -> dict[str, Any]:
        """The measurements as plain data."""
        return asdict(self)


def measure(settings: RateSettings) -> Measurements:
    """Measure this machine; a `UserError` if it lacks the device."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise FieldError("device", "no CUDA device was found; cpu rehearses without one")
    device = torch.device(settings.device)
    timer = DeviceTimer(device, settings.repeats)
    dtype = torch.bfloat16
    models = [_reduced(published(name)) if settings.quick else published(name) for name in _MODELS]
    sizes = [1, 16] if settings.quick else [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096]
    copied = [1 << power for power in ((16, 20) if settings.quick else range(14, 30))]
    with bar("figures", 5 + len(models), unit="part") as done:
        peaks = _peaks(timer, dtype, quick=settings.quick)
        done(1)
        copies = {"pinned": copy_times(timer, "pinned", copied), "pageable": copy_times(timer, "pageable", copied)}
        done(1)
        operations: list[OperationTime] = []
        for model in models:
            operations += operation_times(model, timer, dtype, sizes, _CONTEXT)
            done(1)
        contentions = _contentions(models, timer, dtype) if timer.on_gpu else []
        done(1)
        steps = [each for model in models if model.name in _TOP_KS for each in _steps(model, timer, dtype, settings)]
        done(1)
        search = search_time(models[0])
        done(1)
    return Measurements(
        settings=settings,
        facts=_facts(device),
        models=models,
        peaks=peaks,
        memory_bytes=float(torch.cuda.get_device_properties(device).total_memory) if timer.on_gpu else None,
        copies=copies,
        operations=operations,
        contentions=contentions,
        steps=steps,
        search=search,
    )


def simulated_step_s(one: StepTime, shape: ModelShape, cost: Cost, step_s: float) -> float:
    """Simulated seconds of a decode step with every expert resident, plus the framework's time per step."""
    effects = cost.effects
    layer_s = cost.dense_s(1, _CONTEXT, _CONTEXT) + effects.layer_host_s
    layer_s += one.experts * (cost.expert_s(1) + effects.expert_host_s)
    return one.layers * layer_s + cost.head_s(1) + step_s


def _peaks(timer: DeviceTimer, dtype: torch.dtype, *, quick: bool) -> Peaks:
    """Measure the rates of large products and copies, and the overhead with an expert that computes almost nothing."""
    side = 256 if quick else 8192
    left, right = (torch.randn(side, side, dtype=dtype, device=timer.device) for _ in range(2))
    product = timer.timed(lambda piece: torch.mm(left, right), 8)
    source = torch.zeros(1 << (20 if quick else 30), dtype=torch.uint8, device=timer.device)
    target = torch.empty_like(source)
    moved = timer.timed(lambda piece: target.copy_(source), 8)
    smallest = replace(published("mixtral-8x7b"), hidden=64, expert_ffn=64)
    with torch.no_grad():
        least = Operations(smallest, timer, dtype).expert(1)
    return Peaks(
        flops_per_s=2.0 * side**3 / product.least_s,
        product_side=side,
        memory_bytes_per_s=2.0 * source.numel() / moved.least_s,
        copied_bytes=source.numel(),
        overhead_s=least.timing.median_s,
    )


def _contentions(models: Sequence[ModelShape], timer: DeviceTimer, dtype: torch.dtype) -> list[MeasuredContention]:
    return [
        contention(Operations(model, timer, dtype), timer, model=model.name, tokens=tokens)
        for model in models
        for tokens in (1, 1024)
    ]


def _steps(model: ModelShape, timer: DeviceTimer, dtype: torch.dtype, settings: RateSettings) -> list[StepTime]:
    top_ks = _TOP_KS[model.name]
    return step_times(model, timer, dtype, top_ks[:2] if settings.quick else top_ks)


def _reduced(model: ModelShape) -> ModelShape:
    """A small model of the same kind."""
    return replace(
        model,
        hidden=128,
        expert_ffn=64,
        shared_ffn=model.shared_ffn and 64,
        attention_heads=4,
        kv_heads=2,
        head_dim=32,
        vocab=256,
    )


def _facts(device: torch.device) -> dict[str, Any]:
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "gpus": torch.cuda.device_count() if on_gpu else 1,
        "cuda": torch.version.cuda or "none",
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

"""The workload that settings describe: read, sampled, or drawn from a process."""

from pathlib import Path
from typing import Any

import numpy as np

from traces.format.storage import file_info
from traces.workloads.arrivals import (
    Workload,
    gamma_arrivals,
    poisson_arrivals,
    sample,
    with_fixed_lengths,
    with_lengths_of,
)
from traces.workloads.workload_files import read_workload
from traces.workloads.workload_settings import ArrivalSettings


def chosen_workload(settings: ArrivalSettings) -> Workload:
    """The workload; equal settings and files give equal ones."""
    rng = np.random.default_rng(settings.seed)
    if settings.is_process:
        return _drawn(settings, rng)
    return sample(read_workload(Path(settings.workload)), rng, requests=settings.requests, rate=settings.rate)


def provenance_of(settings: ArrivalSettings) -> dict[str, Any]:
    """All that the workload depends on; files by their hashes, since their places mean nothing elsewhere."""
    names = ("rate", "requests", "burstiness", "prompt_tokens", "output_tokens", "seed")
    file = settings.lengths if settings.is_process else Path(settings.workload)
    return {name: getattr(settings, name) for name in names} | {"file_sha256": file and file_info(file).sha256}


def _drawn(settings: ArrivalSettings, rng: np.random.Generator) -> Workload:
    requests, rate, burstiness = settings.requests, settings.rate, settings.burstiness
    assert requests is not None  # the settings hold what their process needs
    assert rate is not None
    if settings.workload == "gamma":
        assert burstiness is not None
        arrival_s = gamma_arrivals(requests, rate, burstiness, rng)
        source = f"gamma process at {rate:g}/s with burstiness {burstiness:g}"
    else:
        arrival_s = poisson_arrivals(requests, rate, rng)
        source = f"poisson process at {rate:g}/s"
    if settings.lengths is not None:
        return with_lengths_of(arrival_s, read_workload(settings.lengths), rng, source)
    assert settings.prompt_tokens is not None
    assert settings.output_tokens is not None
    return with_fixed_lengths(arrival_s, settings.prompt_tokens, settings.output_tokens, source)

"""Compute all tables of `finemoe traces analyse` in one pass over the requests.

Requests are streamed: memory holds sums, a sample of iterations for the similarities, and one request for the heat map.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from common.errors import FieldError
from traces.analysis.analysis_settings import AnalysisSettings
from traces.analysis.entropy import Entropies, heat_map
from traces.analysis.iterations import Iterations, iterations_of
from traces.analysis.naturalness import naturalness_of, warning
from traces.analysis.popularity import Popularity
from traces.analysis.reuse import Reuse
from traces.analysis.similarity import Sample, Sampler, binned, correlation, coverage, draw, pairs, theory
from traces.format.reader import Trace, split
from traces.format.schema import library_versions

Tables = dict[str, Any]  # DataFrames, whose columns a type checker cannot know


class Part(Protocol):
    """A part of the analysis, which every request is added to."""

    def add(self, request: Iterations) -> None:
        """Add a request."""


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Tables by name, and a description of the trace and the settings."""

    tables: Tables
    meta: dict[str, Any]


def analyse(
    trace: Trace, settings: AnalysisSettings, progress: Callable[[Sequence[int]], Iterable[int]] = lambda ids: ids
) -> Analysis:
    """Analyse a trace, reading every request once; `progress` wraps the iteration over request numbers."""
    layers, experts = trace.shape.layers, trace.shape.experts
    chosen, history, tested = _requests(trace, settings)
    shown = chosen[0] if settings.request is None else settings.request
    if shown not in chosen:
        raise FieldError("request", f"must be one of the {len(chosen)} analysed requests, not {shown}")
    rng = np.random.default_rng([settings.seed, 1])
    samplers = _samplers(trace, history, tested, settings.sample, rng)
    entropies, popularity = Entropies(layers, experts), Popularity(layers, experts)
    caches = [Reuse(layers, experts)] + [Reuse(layers, experts, shared=True)] * settings.shared_cache
    parts: list[Part] = [entropies, popularity, *caches, *samplers.values()]
    heat = pd.DataFrame()
    for number in progress(chosen):
        request = iterations_of(trace.read(number), trace.meta.prefill)
        for part in parts:
            part.add(request)
        if number == shown:
            heat = heat_map(request)
    tables = {
        "entropy": entropies.per_layer(),
        "entropy_iterations": entropies.through_iterations(),
        "heat_map": heat,
        "overlap": popularity.overlaps(),
        "popularity": popularity.experts(),
        "balance": popularity.balance(),
        "reuse_distance": caches[0].distances(),
        "cache_curves": pd.concat([cache.curves() for cache in caches], ignore_index=True),
    }
    samples = {key: sampler.sample(rng) for key, sampler in samplers.items()}
    tables |= _similarities(samples, settings.sample) | _coverage(samples, theory(layers, experts))
    natural = naturalness_of(trace).to_data()
    meta = {
        "trace": trace.path.name,
        "trace_sha256": trace.digest,
        "kind": trace.meta.kind,
        "naturalness": natural,
        "warning": warning(natural, trace.meta.generation),
        "model": trace.meta.model,
        "gate_complete": trace.meta.gate_complete,
        "prefill": trace.meta.prefill,
        "layers": layers,
        "experts": experts,
        "top_k": trace.shape.top_k,
        "analysed_requests": len(chosen),
        "history_requests": len(history),
        "test_requests": len(tested),
        "iterations": sum(_lengths(trace, chosen).values()),
        "settings": asdict(settings),
        "versions": library_versions("pandas"),
    }
    return Analysis(tables=tables, meta=meta)


def _requests(trace: Trace, settings: AnalysisSettings) -> tuple[list[int], list[int], list[int]]:
    """The analysed requests, and their split into history and test requests."""
    chosen = trace.request_ids
    if settings.requests is not None and settings.requests < len(chosen):
        places = np.random.default_rng([settings.seed, 0]).choice(len(chosen), settings.requests, replace=False)
        chosen = [chosen[place] for place in sorted(places)]
    history, tested = split(chosen, settings.train_split, np.random.default_rng(settings.seed))
    return chosen, history, tested


def _lengths(trace: Trace, ids: Iterable[int]) -> dict[int, int]:
    return {number: trace.infos[number].output_tokens for number in ids}


def _samplers(
    trace: Trace, history: Sequence[int], tested: Sequence[int], sample: int, rng: np.random.Generator
) -> dict[tuple[str, str], Sampler]:
    """Samplers by phase and side. Prefills are compared only with prefills: they execute the union over a prompt."""
    most = max(sample, *theory(trace.shape.layers, trace.shape.experts).values())
    skip = int(trace.meta.prefill)
    found = {
        ("decode", "stored"): Sampler(draw(_lengths(trace, history), most, rng, skip)),
        ("decode", "test"): Sampler(draw(_lengths(trace, tested), sample, rng, skip)),
    }
    if trace.meta.prefill:
        for side, ids in (("stored", history), ("test", tested)):
            found["prefill", side] = Sampler(draw(dict.fromkeys(ids, 1), sample, rng))
    return found


def _similarities(samples: Mapping[tuple[str, str], Sample | None], count: int) -> Tables:
    """Pairs, bins and correlations of each phase and kind of similarity; no tables without pairs."""
    all_pairs, all_bins, rows = [], [], []
    for phase in dict.fromkeys(phase for phase, _ in samples):
        test, stored = samples[phase, "test"], samples[phase, "stored"]
        if test is None or stored is None:
            continue
        found = pairs(test, stored.first(count))
        for kind, some in found.groupby("similarity", sort=False):
            bins = binned(some)
            rows.append({"phase": phase, "similarity": kind, **correlation(some, bins)})
            bins.insert(0, "similarity", kind)
            bins.insert(0, "phase", phase)
            all_bins.append(bins)
        found.insert(0, "phase", phase)
        all_pairs.append(found)
    if not rows:
        return {}
    return {
        "similarity_pairs": pd.concat(all_pairs, ignore_index=True),
        "similarity_bins": pd.concat(all_bins, ignore_index=True),
        "similarity": pd.DataFrame(rows),
    }


def _coverage(samples: Mapping[tuple[str, str], Sample | None], guaranteed: Mapping[float, int]) -> Tables:
    """The coverage table of decode iterations; none without pairs."""
    test, stored = samples["decode", "test"], samples["decode", "stored"]
    if test is None or stored is None:
        return {}
    return {"coverage": coverage(test, stored, guaranteed)}

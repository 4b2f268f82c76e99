"""Workloads, that is arrival times and lengths of requests, from files or generated."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.errors import FieldError
from policies.types import Float, Int

MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`N` requests in order of arrival.

    The mean rate is `N - 1` divided by the time from the first arrival to the last.
    """

    arrival_s: Float  # [N] float64, from 0, not decreasing
    prompt_tokens: Int  # [N] int64, positive
    output_tokens: Int  # [N] int64, positive
    source: str  # description of the origin
    dropped: int = 0  # failed requests: rows of the source without prompt or output

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def duration_s(self) -> float:
        """Time from the first arrival to the last."""
        return float(self.arrival_s[-1])

    @property
    def rate_per_s(self) -> float | None:
        """Mean requests per second; None if all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else None


def poisson_arrivals(requests: int, rate: float, rng: np.random.Generator) -> Float:
    """Arrivals `[requests]` in seconds from 0; the gaps are independent and exponential with mean `1 / rate`."""
    _check_process(requests, rate)
    return _from_gaps(rng.exponential(1 / rate, requests - 1))


def gamma_arrivals(requests: int, rate: float, burstiness: float, rng: np.random.Generator) -> Float:
    """Arrivals `[requests]` in seconds from 0; the gaps are independent and Gamma distributed with mean `1 / rate`.

    `burstiness` is their coefficient of variation, standard deviation / mean: 1 is a Poisson process, lower values are
    more regular, higher values come in bursts.
    """
    _check_process(requests, rate)
    if not 1e-6 <= burstiness <= 1e6:
        raise FieldError("burstiness", f"must be from 1e-6 to 1e6, not {burstiness:g}")
    variance = burstiness**2  # of gaps with mean 1; a Gamma distribution of shape k has coefficient of variation 1/√k
    return _from_gaps(rng.gamma(1 / variance, variance / rate, requests - 1))


def with_fixed_lengths(arrival_s: Float, prompt_tokens: int, output_tokens: int, source: str) -> Workload:
    """A workload whose requests all have the same lengths."""
    for name, tokens in (("prompt_tokens", prompt_tokens), ("output_tokens", output_tokens)):
        if tokens < 1:
            raise FieldError(name, f"must be at least 1, not {tokens}")
    return Workload(
        arrival_s=arrival_s,
        prompt_tokens=np.full(len(arrival_s), prompt_tokens, np.int64),
        output_tokens=np.full(len(arrival_s), output_tokens, np.int64),
        source=f"{source}, {prompt_tokens} prompt and {output_tokens} output tokens",
    )


def with_lengths_of(arrival_s: Float, lengths: Workload, rng: np.random.Generator, source: str) -> Workload:
    """A workload with lengths drawn from `lengths` with replacement; prompt and output length stay together."""
    drawn = rng.integers(0, len(lengths), len(arrival_s))
    return Workload(
        arrival_s=arrival_s,
        prompt_tokens=lengths.prompt_tokens[drawn],
        output_tokens=lengths.output_tokens[drawn],
        source=f"{source}, lengths drawn from {lengths.source}",
    )


def sample(
    workload: Workload, rng: np.random.Generator, *, requests: int | None = None, rate: float | None = None
) -> Workload:
    """A sample of `requests` rows, in order, with times rescaled to the mean `rate`.

    Rows are drawn uniformly without replacement, which keeps the course of the day and thins out bursts. None keeps all
    rows or the time scale; the first arrival is always at 0. The paper's online runs (fig. 11) use 256 requests of the
    Azure traces at 2.91 requests/s.
    """
    rows, prefix = np.arange(len(workload)), ""
    if requests is not None:
        if not 1 <= requests <= len(workload):
            raise FieldError(
                "requests", f"must be from 1 to {len(workload)}, the size of {workload.source}, not {requests}"
            )
        rows = np.sort(rng.choice(len(workload), requests, replace=False))
        prefix = f"{requests} of {len(workload)} requests of "
    arrival_s = workload.arrival_s[rows] - workload.arrival_s[rows[0]]
    drawn = replace(
        workload,
        arrival_s=arrival_s,
        prompt_tokens=workload.prompt_tokens[rows],
        output_tokens=workload.output_tokens[rows],
        source=prefix + workload.source,
    )
    return drawn if rate is None else _stretched(drawn, rate)


def describe(workload: Workload) -> dict[str, Any]:
    """Rates and lengths as plain JSON; undefined values, such as the gaps of a single request, are None."""
    gaps = np.diff(workload.arrival_s)
    spread = float(gaps.std() / gaps.mean()) if workload.duration_s > 0 else None
    return {
        "source": workload.source,
        "requests": len(workload),
        "dropped": workload.dropped,
        "duration_s": workload.duration_s,
        "rate_per_s": workload.rate_per_s,
        "peak_per_minute": int(np.unique(workload.arrival_s // MINUTE_S, return_counts=True)[1].max()),
        "gap_cv": spread,
        "prompt_tokens": _lengths(workload.prompt_tokens),
        "output_tokens": _lengths(workload.output_tokens),
    }


def counts_per(workload: Workload, width_s: float) -> Int:
    """Number of arrivals in each interval of `width_s` seconds from the first arrival, up to the last."""
    counts: Int = np.bincount((workload.arrival_s // width_s).astype(np.int64))
    return counts


def _lengths(tokens: Int) -> dict[str, float]:
    p50, p95 = np.percentile(tokens, [50, 95])
    return {"mean": float(tokens.mean()), "p50": float(p50), "p95": float(p95), "max": int(tokens.max())}


def _stretched(workload: Workload, rate: float) -> Workload:
    _check_rate(rate)
    if workload.duration_s == 0:
        raise FieldError("rate", f"cannot be {rate:g}: all requests of {workload.source} arrive at once")
    wanted_s = (len(workload) - 1) / rate
    # Divide first, so that the last arrival is exactly at the end.
    arrival_s = workload.arrival_s / workload.duration_s * wanted_s
    return replace(workload, arrival_s=arrival_s, source=f"{workload.source} at {rate:g}/s")


def _from_gaps(gaps_s: Float) -> Float:
    return np.concatenate([[0.0], np.cumsum(gaps_s)])


def _check_process(requests: int, rate: float) -> None:
    if requests < 1:
        raise FieldError("requests", f"must be at least 1, not {requests}")
    _check_rate(rate)


def _check_rate(rate: float) -> None:
    if not 1e-9 <= rate <= 1e9:
        raise FieldError("rate", f"must be from 1e-9 to 1e9, not {rate:g}")

"""Small synthetic traces, and their statistics worked out pair by pair."""

from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.trace_helpers import small_shape
from traces.__main__ import main
from traces.format.reader import Trace
from traces.synthetic.coefficients import Calibration, calibrate
from traces.synthetic.drawn_trace import Lengths, generate
from traces.synthetic.parameters import Parameters, Statistics

LAYERS, EXPERTS, TOP_K = 3, 8, 2  # with more layers, each calibration draws 132 requests to search in
SHAPE = small_shape(layers=LAYERS, experts=EXPERTS, top_k=TOP_K, hidden=16, vocab=1000)
ASKED = {
    "entropy_bits": 1.5,
    "overlap": 0.52,
    "request_overlap": 0.45,
    "cluster_overlap": 0.37,
    "token_overlap": 0.45,
    "load_cv": 0.4,
}


def statistics(layers: int = LAYERS, **changes: Any) -> Statistics:
    """`ASKED`, a number for all layers or one for each."""
    given = {name: np.broadcast_to(value, layers).tolist() for name, value in (ASKED | changes).items()}
    return Statistics(**{name: tuple(values) for name, values in given.items()})


def parameters(more: dict[str, Any] | None = None, **changes: Any) -> Parameters:
    """`changes` are of the statistics."""
    given = {"shape": SHAPE, "clusters": 4} | (more or {})
    return Parameters(statistics=statistics(given["shape"].layers, **changes), **given)


@cache
def calibrated() -> Calibration:
    """That of `parameters()`."""
    return calibrate(parameters())


def drawn(
    path: Path,
    wanted: Parameters,
    requests: int = 60,
    prompt: int = 6,
    output: int = 90,
    *,
    calibration: Calibration | None = None,
) -> Trace:
    lengths = Lengths.constant(requests, prompt, output)
    return Trace.open(generate(wanted, calibration or calibrate(wanted, output), lengths, path, notes={}))


def command(out: Path, *more: Any) -> list[str]:
    """A small trace."""
    sizes = ["--layers", LAYERS, "--experts", EXPERTS, "--hidden", 16, "--requests", 20, "--prompt-tokens", 4]
    return [str(word) for word in ["synthetic", "--out", out, *sizes, "--output-tokens", 40, *more]]


def written(out: Path, *more: Any) -> Trace:
    assert main(command(out, *more)) == 0
    return Trace.open(out)


def by_hand(trace: Trace) -> dict[str, Any]:
    """The statistics `[L]` without the project's analysis: sets of experts, and pairs of iterations."""
    rng, shape = np.random.default_rng(5), trace.shape
    decode = [(one, one.iteration > 0) for one in trace.iter()]
    experts = [one.experts[rows] for one, rows in decode]  # [I, L, K] each
    tokens = [one.token[rows] for one, rows in decode]
    cluster = [one.source for one, _ in decode]

    def shared(one: Any, other: Any) -> Any:
        """`[n, L, K]` twice → `[L]`."""
        return (one[..., :, None] == other[..., None, :]).any(axis=-1).mean(axis=(0, 2))

    near = np.concatenate([one[1:] for one in experts]), np.concatenate([one[:-1] for one in experts])
    far = np.concatenate([one[-20:] for one in experts]), np.concatenate([one[:20] for one in experts])
    same = [(a, b) for a, b in combinations(range(len(experts)), 2) if cluster[a] == cluster[b]]
    picks = [(a, rng.integers(len(experts[a])), b, rng.integers(len(experts[b]))) for a, b in same for _ in range(20)]
    again = [
        (a, i, b, int(j))
        for a, b in same
        for i in rng.integers(0, len(tokens[a]), 10)
        for j in np.flatnonzero(tokens[b] == tokens[a][i])
    ]

    def of_pairs(chosen: Any) -> Any:
        return shared(
            np.stack([experts[a][i] for a, i, _, _ in chosen]), np.stack([experts[b][j] for *_, b, j in chosen])
        )

    gates = np.concatenate([one.gate[rows] for one, rows in decode]).astype(float)
    logs = np.log2(np.where(gates > 0, gates, 1))
    load = np.stack([np.bincount(layer.ravel(), minlength=shape.experts) for layer in _every(trace)])
    return {
        "entropy_bits": -(gates * logs).sum(axis=2).mean(axis=0),
        "overlap": shared(*near),
        "request_overlap": shared(*far),
        "cluster_overlap": of_pairs(picks),
        "token_overlap": of_pairs(again),
        "load_cv": load.std(axis=1) / load.mean(axis=1),
    }


def _every(trace: Trace) -> Any:
    """The executed experts of each layer."""
    return np.concatenate([one.experts for one in trace.iter()]).transpose(1, 0, 2)

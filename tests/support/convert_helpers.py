"""A small model's routing in the formats of others, and the command that converts it."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.trace_helpers import Pair, random_request, small_meta, small_shape
from traces.__main__ import main
from traces.format.checks import check
from traces.format.reader import Trace

SHAPE = small_shape()  # 3 layers of 6 experts, top-2, hidden 4, vocabulary 40
MODEL = [
    *("--model", "small"),
    *("--shape", "layers=3,experts=6,top_k=2,hidden=4,expert_ffn=8,attention_heads=1,kv_heads=1,head_dim=4,vocab=40"),
]


def write_lines(file: Path, rows: Iterable[Any]) -> Path:
    with file.open("w") as out:
        out.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return file


def convert(kind: str, file: Path, *more: str, name: str = "out.trace") -> int:
    return main(["convert", kind, str(file), *MODEL, "--out", str(file.parent / name), *more])


def converted(kind: str, file: Path, *more: str) -> Trace:
    """The trace, which must be whole."""
    assert convert(kind, file, *more, "--overwrite") == 0
    out = file.parent / "out.trace"
    assert check(out) == []
    return Trace.open(out)


def reported(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    """The one line of a mistake, after which nothing may be left."""
    capsys.readouterr()
    assert run() == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line.removeprefix("error: ").rstrip("\n")


def recorded_pairs(count: int = 4, **changes: Any) -> list[Pair]:
    """Requests with a prefill of 5 tokens and 3 decoded ones, only the executed experts' weights known."""
    meta = small_meta(**{"gate_complete": False, "lookahead": (), "embedding": False} | changes)
    return [random_request(request, meta) for request in range(count)]


def rows_of(pairs: Iterable[Pair], order: str = "token") -> list[dict[str, Any]]:
    """A row per token and layer under our own names; a pass token by token, or layer by layer."""
    rows = []
    for info, one in pairs:
        cells = [
            (int(one.iteration[n]), *((n, layer) if order == "token" else (layer, n)), n, layer)
            for n in range(len(one.token))
            for layer in range(one.experts.shape[1])
        ]
        for *_, n, layer in sorted(cells):
            experts = one.experts[n, layer].tolist()
            rows.append(
                {
                    "request": info.request,
                    "source": info.source,
                    "position": int(one.position[n]),
                    "iteration": int(one.iteration[n]),
                    "token": int(one.token[n]),
                    "layer": layer,
                    "experts": experts,
                    "weights": one.gate[n, layer, experts].tolist(),
                }
            )
    return rows

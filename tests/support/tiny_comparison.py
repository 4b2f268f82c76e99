"""A comparison of seconds: `python -m tests.support.tiny_comparison ROUTING STORE OUT` does it in one process."""

import sys
from dataclasses import replace
from pathlib import Path

from sim.ranking.compared import COMPARED, Compared, ComparedMachine, ComparedTrace
from sim.ranking.comparison_runs import run_comparison
from sim.ranking.comparison_table import ComparisonTable
from sim.ranking.written_comparison import write_comparison
from sim.sweeps.workers import Workers
from tests.support.trace_helpers import small_shape, small_trace

SHAPE = small_shape(layers=4, experts=8)  # 32 experts of 192 bytes

SHOWN = ("FineMoE", "ProMoE (lookahead)", "LRU", "Belady", "LRU eviction", "no offloading")

TINY: Compared = replace(
    COMPARED,
    systems=tuple(each for each in COMPARED.systems if each.name in SHOWN),
    traces=(
        ComparedTrace(name="whole", title="whole", sizes=None, source="drawn", made_by=("make whole",), requests=3),
        ComparedTrace(
            name="decode", title="decode only", sizes=None, source="drawn", made_by=("make decode",), requests=4
        ),
        ComparedTrace(
            name="absent", title="absent", sizes=None, source="drawn", made_by=("make absent --out ROUTING",)
        ),
    ),
    cache_gb=(12 * 192e-9, 20 * 192e-9),
    machines=(
        ComparedMachine(name="PCIe", machine="rtx3090", meaning="one GPU"),
        ComparedMachine(name="six", machine="rtx3090x6", meaning="six of them"),
        ComparedMachine(name="none", machine="rtx3090,gpus=99", meaning="one with more GPUs than a cache has slots"),
    ),
)


def tiny_routing(folder: Path) -> Path:
    """The traces: one with everything, one of decode tokens alone; the third is not there."""
    small_trace(folder / "whole.trace", 8, shape=SHAPE, lookahead=(1, 3))
    small_trace(folder / "decode.trace", 8, shape=SHAPE, lookahead=(), embedding=False, prefill=False)
    return folder


def carried_out(routing: Path, store: Path, out: Path) -> ComparisonTable:
    """Run and write it; what was written is read again."""
    write_comparison(run_comparison(TINY, routing, store=store, workers=Workers(jobs=1)), TINY, out)
    return ComparisonTable.read(out / "comparison")


if __name__ == "__main__":
    carried_out(*map(Path, sys.argv[1:]))

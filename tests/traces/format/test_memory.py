"""Longer traces need no more memory, neither to write nor to read."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.collect_helpers import subprocess_environment
from traces.prompts.prompt_sets import PASSAGES, read_prompts

TIMES = 20
GROWTH = 1.2

# Peaks of what Python and numpy, and what Arrow allocate; a process as a whole has a base that hides them.
WRITE_AND_READ = """
import sys, tracemalloc
from pathlib import Path
import pyarrow as pa
from tests.support.trace_helpers import PLAN, random_request, small_meta, small_shape
from traces.format.checks import check
from traces.format.reader import Trace
from traces.format.writer import TraceWriter

path, requests = Path(sys.argv[1]), int(sys.argv[2])
meta = small_meta(shape=small_shape(layers=8, experts=32, top_k=4, hidden=64), lookahead=(1,))


def write():
    with TraceWriter(path, meta, plan=PLAN) as writer:
        for part in range(requests // 8):
            pairs = [random_request(8 * part + one, meta, prompt=60, output=48) for one in range(8)]
            writer.write_part(part, *zip(*pairs, strict=True))
        writer.finish()


def read():
    assert check(path) == []
    trace = Trace.open(path)
    for one in trace.iter():
        trace.demands(one.request)


for work in (write, read):
    tracemalloc.start()
    work()
    print(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
print(pa.default_memory_pool().max_memory())
"""


# As many bytes per request break both bounds: a hundredth of the peak of 16 requests for every 16 more.
@pytest.mark.parametrize(("times", "growth"), [(4, 1.03), pytest.param(TIMES, GROWTH, marks=pytest.mark.slow)])
def test_writing_and_reading_many_times_as_many_requests_allocates_no_more(
    tmp_path: Path, times: int, growth: float
) -> None:
    paths = str(Path(__file__).parents[3])

    def peaks(requests: int) -> list[int]:
        arguments = [sys.executable, "-c", WRITE_AND_READ, str(tmp_path / f"{requests}.trace"), str(requests)]
        ran = subprocess.run(arguments, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, check=True)
        return [int(number) for number in ran.stdout.split()]

    few, many = peaks(16), peaks(16 * times)
    print(few, many)
    for name, one, other in zip(("writing", "reading", "Arrow"), few, many, strict=True):
        assert other <= growth * one, name


def peak_bytes(arguments: Sequence[str]) -> int:
    """Of the resident memory of a process that must end well."""
    process = subprocess.Popen([sys.executable, *arguments], env=subprocess_environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return usage.ru_maxrss * 1024


@pytest.mark.long  # the quicker test above counts what writing and reading allocate, without PyTorch's 600 MB
def test_a_collection_of_twenty_times_the_demo_needs_no_more_memory(tmp_path: Path) -> None:
    demo = [{"prompt": passage.text} for passage in read_prompts(PASSAGES).prompts]
    read = (
        "import sys; from traces.format.reader import Trace; any(one is None for one in Trace.open(sys.argv[1]).iter())"
    )

    def peaks(times: int) -> dict[str, int]:
        prompts, out = tmp_path / f"{times}.jsonl", str(tmp_path / f"{times}.trace")
        # Each with a number before it, so that no two texts are the same.
        varied = [{"prompt": f"{number} {line['prompt']}"} for number in range(times) for line in demo]
        prompts.write_text("".join(json.dumps(line) + "\n" for line in varied), encoding="utf-8")
        sizes = ["--continue-text", "--max-new-tokens", "64", "--threads", "1", "--lookahead", "1"]
        return {
            "collect": peak_bytes(
                ["-m", "traces", "collect", "pocket", "--prompts", str(prompts), "--out", out, *sizes]
            ),
            "check": peak_bytes(["-m", "traces", "check", out]),
            "info": peak_bytes(["-m", "traces", "info", out]),
            "read": peak_bytes(["-c", read, out]),
        }

    demo_peaks, long_peaks = peaks(1), peaks(TIMES)
    growth = {name: long_peaks[name] / demo_peaks[name] for name in demo_peaks}
    print({name: f"{demo_peaks[name] / 1e6:.0f} MB × {factor:.2f}" for name, factor in growth.items()})
    assert max(growth.values()) <= GROWTH, growth

r"""Check that a change of the code changes no simulated number.

`record` runs a fixed list of simulations with the code of a checkout and stores what they print and write.
`compare` holds two recordings against each other, figure by figure and to the last bit. A figure is a value of a JSON
object or a cell of a Parquet table; a list in a cell is one figure.

    python tests/support/same_figures.py record --checkout OLD --traces TRACES --out BEFORE [--earlier]
    python tests/support/same_figures.py record --checkout NEW --traces TRACES --out AFTER
    python tests/support/same_figures.py compare BEFORE AFTER

Both recordings need the same traces, so these are made once, with the code before the change, on one core:

    export OMP_NUM_THREADS=1
    finemoe traces collect pocket --continue-text --chat-template --max-new-tokens 64 --threads 1 \
        --lookahead 1 --out TRACES/pocket.trace
    finemoe traces collect pocket --prompts built-in --sample 32 --seed 1 --max-new-tokens 32 --threads 1 \
        --lookahead 1 --out TRACES/other.trace
    finemoe traces convert npz ../shared/data/gpt-oss-20b/routing.npz --model gpt-oss-20b --out TRACES/gpt-oss.trace
"""

import argparse
import json
import os
import shlex
import struct
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

EARLIER = {  # today's word on the command line: the word before
    "paper-rtx3090x6": "rtx3090x6",
    "paper-rtx3090": "rtx3090",
    "paper-a100": "a100",
}
RENAMED: dict[str, str] = {}  # column or JSON key before: its name after
REWORDED: frozenset[str] = frozenset({"machine"})  # columns or JSON keys, named as before, whose text may change
SHOWN = 5  # columns or values that differ to print per table
Finding = tuple[str, int, int]  # what was compared, how many figures, how many of them differ; 0 figures: it is new
ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

MIXTRAL = ("--sizes", "mixtral-8x7b")
QUARTER = ("--machine", "paper-rtx3090x6", "--cache-share", "0.25")
HALF = ("--machine", "paper-rtx3090", "--cache-share", "0.5")
DEMO = (*MIXTRAL, *QUARTER)
DEMO_POLICIES = (
    "finemoe moe-infinity moe-infinity-code promoe mixtral-offloading mixtral-offloading-released deepspeed lru belady "
    "clairvoyant no-offload "
    "lfu hit-count speculate map-t map-ts perfect-prefetch finemoe+lhd lru+sieve lru+lecar"
)
COMMANDS: dict[str, tuple[str, str, tuple[str, ...], str]] = {  # name: command, trace, options, policies
    "demo": ("run", "pocket", DEMO, DEMO_POLICIES),
    "batches": ("run", "pocket", (*DEMO, "--batch-size", "4"), "finemoe moe-infinity promoe lru belady"),
    "replicas": ("run", "pocket", (*DEMO, "--replicas", "2", "--placement", "balanced"), "finemoe lru"),
    "cache-gb": ("run", "pocket", (*MIXTRAL, "--machine", "paper-a100", "--cache-gb", "8"), "finemoe lru"),
    "cache-experts": ("run", "pocket", (*MIXTRAL, "--machine", "paper-a100", "--cache-experts", "24"), "finemoe lru"),
    "gpt-oss": ("run", "gpt-oss", (*QUARTER, "--requests", "4"), "finemoe lru belady clairvoyant promoe"),
    "predict": ("predict", "pocket", (), "finemoe hit-count"),
    "settings": (
        "run",
        "pocket",
        (*MIXTRAL, *HALF, "--seed", "3", "--train-split", "0.5", "--check"),
        "finemoe,fill=redundancy,prefill_records=iteration,learn=false finemoe,threshold=demo,queue=all,reach=rest "
        "finemoe,count_misses=false,reset_on_evict=true promoe,chunk_bytes=9000000",
    ),
    "profile": ("run", "pocket", ("--machine", "machine.toml", "--cache-experts", "16"), "finemoe lru belady"),
    "history": ("run", "pocket", (*DEMO, "--history", "other.trace"), "finemoe moe-infinity promoe hit-count map-ts"),
}


def record(checkout: Path, traces: Path, out: Path, *, earlier: bool) -> None:
    """Run every command in `checkout` and store its output in a folder of its own below `out`, which must be new."""
    environment = os.environ | ONE_CORE
    # Python finds packages in the working directory first, but an installed checkout would stand in for missing ones.
    code = "import policies, sim, traces; print(policies.__file__, sim.__file__, traces.__file__, sep='\\n')"
    found = subprocess.check_output([sys.executable, "-c", code], cwd=checkout, env=environment, text=True)
    for path in found.splitlines():
        if not Path(path).is_relative_to(checkout):
            sys.exit(f"{path} would be used, which is not in {checkout}")
    out.mkdir(parents=True)
    for name, (command, trace, options, policies) in COMMANDS.items():
        (out / name).mkdir()
        argv = [sys.executable, "-m", "sim", command, str(traces / f"{trace}.trace")]
        spelled = [EARLIER.get(word, word) for word in options] if earlier else options
        argv += [str(traces / word) if word.endswith((".trace", ".toml")) else word for word in spelled]
        argv += [word for policy in policies.split() for word in ("--policy", policy)]
        results = "results" if command == "run" else "predictions.parquet"
        argv += [*(("--detail", "events") if command == "run" else ()), "--json", "--out", str(out / name / results)]
        began_s = time.perf_counter()
        done = subprocess.run(argv, cwd=checkout, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{shlex.join(argv)}\n{done.stderr}exit status {done.returncode}")
        (out / name / "stdout.json").write_text(done.stdout)
        (out / name / "command.txt").write_text(shlex.join(argv) + "\n")
        print(f"{name:<14} {time.perf_counter() - began_s:6.1f} s", flush=True)


def compare(before: Path, after: Path) -> int:
    """Print a line per JSON file and table of `before`, and the totals; answer the exit status."""
    totals = np.zeros(2, dtype=int)  # figures compared, figures that differ
    for path in sorted(each for each in before.rglob("*") if each.suffix == ".parquet" or each.name == "stdout.json"):
        name = path.relative_to(before)
        if not (after / name).exists():
            found = [("missing in the later recording", 0, 1)]
        elif path.suffix == ".parquet":
            found = list(compare_tables(pq.read_table(path), pq.read_table(after / name)))
        else:
            found = list(compare_values(json.loads(path.read_text()), json.loads((after / name).read_text()), ""))
        figures, differ = sum(each[1] for each in found), sum(each[2] for each in found)
        print(f"{name!s:<40} {figures:>9} figures compared, {differ} differ")
        unlike, added = [each[0] for each in found if each[2]], [each[0] for each in found if not each[1] + each[2]]
        for text in dict.fromkeys([*unlike[:SHOWN], *added]):
            print(f"    {text}")
        totals += figures, differ
    print(f"{totals[0]} figures compared, {totals[1]} differ")
    return 1 if totals[1] or not totals[0] else 0


def later_names(before: Iterable[str], after: Collection[str]) -> dict[str, str]:
    """Each name before with its name after; what `RENAMED` lists need not be renamed everywhere."""
    return {name: RENAMED[name] if RENAMED.get(name) in after else name for name in before}


def compare_values(before: Any, after: Any, where: str) -> Iterator[Finding]:
    """Compare what `--json` printed; objects in a list are matched by their place, and a new key is no difference."""
    if isinstance(before, dict) and isinstance(after, dict):
        known = later_names(before, after)
        for key in after.keys() - known.values():
            yield f"new, not compared: {key}", 0, 0
        for key, renamed in known.items():
            if renamed not in after:
                yield f"{where}.{key}: missing", 1, 1
            elif key not in REWORDED:
                yield from compare_values(before[key], after[renamed], f"{where}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        if len(before) != len(after):
            yield f"{where}: {len(before)} → {len(after)} values in the list", 1, 1
        for place, (old, new) in enumerate(zip(before, after, strict=False)):
            yield from compare_values(old, new, f"{where}[{place}]")
    else:
        yield f"{where}: {before!r:.200} → {after!r:.200}", 1, int(not same(before, after))


def same(before: Any, after: Any) -> bool:
    """Whether two JSON values have the same type and bits; any NaN equals any other."""
    if isinstance(before, float) and isinstance(after, float):
        return struct.pack("d", before) == struct.pack("d", after) or (before != before and after != after)
    return type(before) is type(after) and bool(before == after)


def compare_tables(before: pa.Table, after: pa.Table) -> Iterator[Finding]:
    """Compare column by column; one of another type or length differs in all rows, and a new one is no difference."""
    known = later_names(before.column_names, after.column_names)
    for column in set(after.column_names) - set(known.values()):
        yield f"new, not compared: {column}", 0, 0
    for column, renamed in known.items():
        if renamed not in after.column_names:
            yield f"{column}: missing", before.num_rows, max(before.num_rows, 1)
        elif column not in REWORDED:
            old, new = (each.combine_chunks() for each in (before[column], after[renamed]))
            if (old.type, len(old)) != (new.type, len(new)):
                yield f"{column}: {len(old)} × {old.type} → {len(new)} × {new.type}", len(old), max(len(old), 1)
                continue
            unlike = np.flatnonzero(differing(old, new))
            cells = "".join(f", row {row}: {old[row].as_py()!r} → {new[row].as_py()!r}" for row in unlike[:1].tolist())
            yield f"{column}: {len(unlike)} of {len(old)} differ{cells}", len(old), len(unlike)


def differing(before: pa.Array, after: pa.Array) -> NDArray[np.bool_]:
    """Which rows differ, `[rows]`; both arrays have the same type and length."""
    flags: NDArray[np.bool_] = before.is_null().to_numpy(False) != after.is_null().to_numpy(False)
    if pa.types.is_null(before.type):
        return flags
    if pa.types.is_list(before.type) or pa.types.is_large_list(before.type):
        flags |= differing(pc.list_value_length(before), pc.list_value_length(after))
        old, new = (each.filter(pa.array(~flags)) for each in (before, after))
        rows = np.flatnonzero(~flags)[pc.list_parent_indices(old).to_numpy(False)]
        flags[rows[differing(old.flatten(), new.flatten())]] = True
    elif pa.types.is_floating(before.type):
        old, new = (each.fill_null(0.0).to_numpy(False) for each in (before, after))
        bits = f"u{old.dtype.itemsize}"
        flags |= (old.view(bits) != new.view(bits)) & ~(np.isnan(old) & np.isnan(new))
    else:
        flags |= pc.not_equal(before, after).fill_null(False).to_numpy(False)
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Record or compare; answer the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="run the simulations with the code of a checkout")
    for name in ("--checkout", "--traces", "--out"):
        recorder.add_argument(name, type=Path, required=True)
    recorder.add_argument("--earlier", action="store_true", help="spell options as before the change")
    comparer = commands.add_parser("compare", help="compare two recordings; exit status 1 if any figure differs")
    comparer.add_argument("recordings", type=Path, nargs=2, metavar="FOLDER", help="the one before, the one after")
    args = parser.parse_args(argv)
    if args.command == "compare":
        return compare(*args.recordings)
    record(args.checkout.resolve(), args.traces.resolve(), args.out.resolve(), earlier=args.earlier)
    return 0


if __name__ == "__main__":
    sys.exit(main())

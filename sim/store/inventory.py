"""Lists the contents of a store, and deletes what is no longer useful."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.files import is_abandoned, remove
from common.tables import name_table, number, text_table
from sim.content_hash import code_facts
from sim.store.result_store import ResultStore
from sim.store.run_journal import RunJournal

DAY_S = 86_400


def listed(store: ResultStore) -> list[dict[str, Any]]:
    """The figures and keys of all runs that are not broken, sorted by model, policy, cache and seed."""
    code = code_facts()
    whole = [run for run in store.runs() if run.meta]
    found = [{"key": run.key, "bytes": run.bytes, "current": run.code == code, **run.figures} for run in whole]
    return sorted(found, key=lambda run: (run["model"], run["policy"], run["expert_slots"], run["seed"], run["key"]))


def run_table(runs: Sequence[dict[str, Any]]) -> str:
    """A row per run."""
    headers = ["key", "policy", "model", "machine", "slots", "seed", "requests", "TPOT ms", "detail", "KB", "code"]
    rows = [
        [
            run["key"][:10],
            run["policy"],
            run["model"],
            str(run["machine"])[:10],
            run["expert_slots"],
            run["seed"],
            run["requests"],
            number(run["tpot_s_mean"], ".2f", 1e3),
            run["detail"],
            f"{run['bytes'] / 1e3:.0f}",
            "today's" if run["current"] else "older",
        ]
        for run in runs
    ]
    return text_table(rows, headers, texts=4)


def facts(store: ResultStore) -> dict[str, Any]:
    """The counts and sizes of a store's contents."""
    runs = list(store.runs())
    kept = list(store.artefacts(code_facts()))
    lines = list(RunJournal(store).lines())
    return {
        "store": str(store.folder),
        "runs": sum(run.meta is not None for run in runs),
        "runs_broken": sum(run.meta is None for run in runs),
        "runs_bytes": sum(run.bytes for run in runs),
        "bounds": store.count("bounds"),
        "failures": store.count("failures"),
        "artefacts": len(kept),
        "artefacts_bytes": sum(each.bytes for each in kept),
        "computed_cpu_s": sum(line.cpu_s for line in lines if line.event == "finished"),
        "running": len(RunJournal(store).running()),
    }


def facts_table(found: dict[str, Any]) -> str:
    """The facts as a table."""
    rows = [
        ("store", found["store"]),
        ("runs", f"{found['runs']:,} ({found['runs_bytes'] / 1e6:,.1f} MB), {found['runs_broken']} broken"),
        ("bounds", f"{found['bounds']:,}"),
        ("failed runs", f"{found['failures']:,}"),
        ("artefacts", f"{found['artefacts']:,} ({found['artefacts_bytes'] / 1e6:,.1f} MB)"),
        ("computed in", f"{found['computed_cpu_s']:,.0f} s of processor time"),
        ("running now", f"{found['running']:,}"),
    ]
    return name_table(rows)


def collected(store: ResultStore, *, unused_days: int | None, dry_run: bool) -> str:
    """Delete what is no longer useful, or only count it; returns a report."""
    counts: dict[str, list[int]] = {}
    for why, place in list(_useless(store, unused_days)):
        try:
            size = sum(file.stat().st_size for file in place.rglob("*")) if place.is_dir() else place.stat().st_size
        except FileNotFoundError:  # another process was faster
            continue
        counts.setdefault(why, []).append(size)
        if not dry_run:
            remove(place)
    done = "would delete" if dry_run else "deleted"
    rows = [f"{done} {len(sizes)} {why} ({sum(sizes) / 1e6:,.1f} MB)" for why, sizes in counts.items()]
    return "\n".join(rows) or "nothing to delete"


def _useless(store: ResultStore, unused_days: int | None) -> Iterator[tuple[str, Path]]:
    code = code_facts()
    for run in store.runs():
        if run.meta is None:
            if not store.is_sound(run.key):  # still broken, so it was not being replaced
                yield "broken runs", run.path
        elif run.code != code:
            yield "runs made with other versions of the code or libraries", run.path
    for path in sorted(store.folder.rglob("*.partial*")):
        if is_abandoned(path):
            yield "leftover files of killed processes", path
    artefacts = store.artefacts(code)
    for each in artefacts:
        if unused_days is not None and each.used_s < time.time() - unused_days * DAY_S:
            yield "unused artefacts", artefacts.path(each.kind, each.key)

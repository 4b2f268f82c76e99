"""A study: the traces, size and result store that all figures of a reproduction share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from common.hashing import sha256_of, sha256_of_json
from common.parquet import frame_from_bytes, frame_to_bytes
from sim.artefacts import Arrays, Artefacts
from sim.content_hash import RunKeys
from sim.paper.case import Case, Label
from sim.paper.footings import EVEN, Footing
from sim.paper.study_traces import PaperTrace
from sim.paper.tiers import Tier
from sim.scenario import CacheSize, Scenario
from sim.store.result_store import ResultStore
from sim.sweeps.sweep_run import run_scenarios
from sim.sweeps.workers import Workers
from sim.trace_naturalness import naturalness
from traces.analysis.naturalness import warning
from traces.format.reader import Trace

TESTBED = "paper-rtx3090x6"  # as stated in the paper
SECOND_TESTBED = "paper-a100"
CACHE_GB = 12.0  # where the paper states no cache size; figure 12 varies it

ENDS = ("status", "reason")  # columns of every run

Analysis = Callable[[Trace, Mapping[str, Any]], pd.DataFrame]
"""Makes a table from a trace and settings; other processes must be able to import it."""

_ROOT = Path(__file__).parents[2]
_ANALYSING = ("sim/paper/analyses", "sim/forecast", "traces/analysis")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """The inputs of all figures."""

    traces: Sequence[PaperTrace]
    tier: Tier
    store: Path
    workers: Workers

    def of_first_prompts(self) -> Sequence[PaperTrace]:
        """The traces of the first set of prompts, for figures that the paper draws only for LMSYS-Chat-1M."""
        return [trace for trace in self.traces if trace.prompts == self.traces[0].prompts]

    def of_other_prompts(self) -> Sequence[PaperTrace]:
        """The traces of every other set of prompts."""
        return [trace for trace in self.traces if trace.prompts != self.traces[0].prompts]

    def case(
        self,
        trace: PaperTrace,
        policy: str,
        *,
        machine: str = TESTBED,
        footing: Footing = EVEN,
        cache_gb: float = CACHE_GB,
        requests: int | None = None,
        batch_size: int = 1,
        **labels: Label,
    ) -> Case:
        """A run of a policy on a trace; `requests` defaults to those of sweeps.

        Its labels are `labels`, the arguments and the names of the trace.
        """
        scenario = Scenario(
            trace.path,
            policy=policy,
            sizes=trace.sizes,
            machine=footing.machine(machine),
            cache=CacheSize(gb=cache_gb),
            requests=self.tier.sweep_requests if requests is None else requests,
            batch_size=batch_size,
            detail="requests",
        )
        given: dict[str, Label] = {
            "model": trace.model,
            "prompts": trace.prompts,
            "footing": footing.name,
            "machine": machine,
            "cache_gb": cache_gb,
            "batch_size": batch_size,
        }
        return Case(labels=given | labels, scenario=scenario)

    def run(self, cases: Sequence[Case]) -> pd.DataFrame:
        """Simulate the runs that the store lacks. A row per case, in order: labels, status, reason, summary."""
        scenarios = list(dict.fromkeys(case.scenario for case in cases))
        rows = run_scenarios(scenarios, store=self.store, workers=self.workers)
        found = dict(zip(scenarios, rows, strict=True))
        return pd.DataFrame(
            [{**found[case.scenario], **case.labels} for case in cases], columns=None if cases else ENDS
        )

    def analysed(
        self, name: str, analysis: Analysis, settings: Mapping[str, Any], traces: Sequence[PaperTrace] | None = None
    ) -> pd.DataFrame:
        """The analyses of all traces as one table, with the columns `model` and `prompts` in front.

        Each is computed once and kept. `settings` are plain data; besides them an analysis may depend only on the trace
        and its own code.
        """
        chosen = self.traces if traces is None else traces
        kept = self._artefacts()
        keys = {
            trace: kept.key("figures", {"name": name, "trace": self.opened(trace).digest, "settings": dict(settings)})
            for trace in chosen
        }
        missing = [trace for trace in chosen if kept.get("figures", keys[trace]) is None]
        calls = [(analysis, trace.path, settings, place) for place, trace in enumerate(missing)]
        made: dict[PaperTrace, bytes] = {}
        for place, table in self.workers.each(_analysed, calls):
            made[missing[place]] = table
            kept.put("figures", keys[missing[place]], {"table": np.frombuffer(table, np.uint8)})
        frames = []
        for trace in chosen:
            table = made.get(trace) or _kept(kept.get("figures", keys[trace]))
            frame = frame_from_bytes(table)
            frame.insert(0, "prompts", trace.prompts)
            frame.insert(0, "model", trace.model)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def opened(self, trace: PaperTrace) -> Trace:
        """Open the trace for reading."""
        return Trace.open(trace.path)

    def warning(self, trace: PaperTrace) -> str | None:
        """How the trace differs from natural text, or None; measured once and kept in the result store."""
        opened = self.opened(trace)
        kept = ResultStore.open(self.store).artefacts(RunKeys().code)
        return warning(naturalness(opened, kept), opened.meta.generation)

    def _artefacts(self) -> Artefacts:
        analysing = sha256_of_json({file.relative_to(_ROOT).as_posix(): sha256_of(file) for file in analysis_files()})
        return ResultStore.open(self.store).artefacts({**RunKeys().code, "analysing": analysing})


def analysis_files() -> list[Path]:
    """The sources that can change an analysis, beside those in the key of every run. Figures are not among them."""
    return sorted(file for folder in _ANALYSING for file in (_ROOT / folder).rglob("*.py"))


def _analysed(analysis: Analysis, trace: Path, settings: Mapping[str, Any], place: int) -> tuple[int, bytes]:
    return place, frame_to_bytes(analysis(Trace.open(trace), settings))


def _kept(arrays: Arrays | None) -> bytes:
    assert arrays is not None  # it was there, or has been made
    return arrays["table"].tobytes()

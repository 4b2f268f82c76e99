"""Generate a synthetic trace and write it in parts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.hashing import sha256_of_json
from common.progress import bar
from policies.types import Int
from traces.format.reader import Trace
from traces.format.schema import RequestInfo, TraceMeta, library_versions
from traces.format.writer import TraceWriter
from traces.synthetic.coefficients import Calibration
from traces.synthetic.parameters import Parameters
from traces.synthetic.state_space import SyntheticModel
from traces.workloads.arrivals import Workload

NOTES = (
    "drawn from a model, not recorded: a logit sums the expert's popularity and terms for cluster, request, token "
    "and noise; the last two persist in later tokens; layers are independent of each other given cluster, "
    "request and tokens (traces/synthetic/state_space.py)"
)
_PART = 8  # requests


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths of `R` requests, and their arrival times if known."""

    prompt_tokens: Int  # [R] int64
    output_tokens: Int  # [R] int64
    arrival_s: Sequence[float | None]  # [R]
    source: str  # description

    def __len__(self) -> int:
        return len(self.output_tokens)

    @classmethod
    def constant(cls, requests: int, prompt_tokens: int, output_tokens: int) -> "Lengths":
        """The same lengths for all requests."""
        prompts, outputs = np.full(requests, prompt_tokens), np.full(requests, output_tokens)
        return cls(prompt_tokens=prompts, output_tokens=outputs, arrival_s=[None] * requests, source="constant")

    @classmethod
    def of_workload(cls, workload: Workload) -> "Lengths":
        """Lengths and arrivals of a workload."""
        return cls(
            prompt_tokens=workload.prompt_tokens,
            output_tokens=workload.output_tokens,
            arrival_s=workload.arrival_s.tolist(),
            source=workload.source,
        )

    @classmethod
    def of_trace(cls, trace: Trace, requests: int | None, rng: np.random.Generator) -> "Lengths":
        """Lengths and arrivals of all requests in order, or lengths of `requests` drawn with replacement."""
        infos = list(trace.infos.values())
        if requests is not None:
            infos = [infos[place] for place in rng.integers(0, len(infos), requests)]
        return cls(
            # Prompt lengths from the rows, since `prompt_tokens` may be missing.
            prompt_tokens=np.array([trace.rows_of(one.request) - one.output_tokens + 1 for one in infos]),
            output_tokens=np.array([one.output_tokens for one in infos]),
            arrival_s=[one.arrival_s if requests is None else None for one in infos],
            source=f"those of {trace.path.name}" + (", drawn" if requests is not None else ""),
        )

    @property
    def sha256(self) -> str:
        """SHA-256 of lengths and arrivals."""
        return sha256_of_json([self.prompt_tokens.tolist(), self.output_tokens.tolist(), list(self.arrival_s)])

    def info(self, request: int, source: str, prefill: bool) -> RequestInfo:
        """The row of a request in `requests.parquet`."""
        return RequestInfo(
            request=request,
            source=source,
            arrival_s=self.arrival_s[request],
            prompt_tokens=int(self.prompt_tokens[request]) if prefill else None,
            output_tokens=int(self.output_tokens[request]),
        )


def generate(
    parameters: Parameters,
    calibration: Calibration,
    lengths: Lengths,
    out: Path,
    *,
    notes: Mapping[str, Any],
    restart: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the trace `out`, or resume it; `notes` are further entries of `meta.generation`."""
    total = len(lengths)
    model = SyntheticModel(parameters, calibration.coefficients, total)
    expected = {name: round(value, 4) for name, value in calibration.expected.mean().items()}
    if calibration.trajectory_recall is not None:
        expected["trajectory_recall"] = round(calibration.trajectory_recall, 4)
    meta = TraceMeta(
        kind="synthetic",
        model=parameters.shape.name,
        shape=parameters.shape,
        gate_complete=parameters.gate_complete,
        prefill=parameters.prefill,
        lookahead=tuple(parameters.lookahead),
        embedding=parameters.embedding,
        seed=parameters.seed,
        generation={**parameters.described(), "expected": expected, "lengths": lengths.source, **notes},
        versions=library_versions(),
        notes=NOTES,
    )
    plan = {"lengths": lengths.sha256}
    with (
        TraceWriter(out, meta, plan=plan, restart=restart, overwrite=overwrite) as writer,
        bar("draw", total) as done,
    ):
        for number, first in enumerate(range(0, total, _PART)):
            part = range(first, min(first + _PART, total))
            if number not in writer.finished:
                drawn = [
                    model.request(one, int(lengths.prompt_tokens[one]), int(lengths.output_tokens[one])) for one in part
                ]
                infos = [lengths.info(one.request, one.source, parameters.prefill) for one in drawn]
                writer.write_part(number, infos, drawn)
            done(len(part))
        return writer.finish()

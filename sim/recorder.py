"""What a run leaves behind: a row per iteration and a row per request, kept as columns."""

from array import array

import pandas as pd

from policies.residency import Counts
from sim.batching import Step


class Recorder:
    """Collects the iterations and requests of one run."""

    _WHOLE = ("iteration", "requests", "tokens", "hits", "late", "misses", "copied_bytes")
    _SECONDS = ("start_s", "end_s", "wait_s")

    def __init__(self) -> None:
        self._whole = [array("q") for _ in self._WHOLE]
        self._seconds = [array("d") for _ in self._SECONDS]
        self._prefill = array("b")
        self._before = (0, 0, 0, 0)
        self._requests: dict[int, list[float]] = {}  # start_s, first_token_s, end_s, output_tokens, has_prefill

    def iteration(self, step: Step, start_s: float, end_s: float, wait_s: float, counts: Counts) -> None:
        """One iteration has ended; `wait_s` is how much longer it took than with every expert in place."""
        batch = step.batch
        now = (counts.hits, counts.late, counts.misses, counts.bytes)
        grown = [value - before for value, before in zip(now, self._before, strict=True)]
        self._before = now
        for column, value in zip(
            self._whole, (batch.iteration, len(batch.request), len(batch.token), *grown), strict=True
        ):
            column.append(value)
        for times, value_s in zip(self._seconds, (start_s, end_s, wait_s), strict=True):
            times.append(value_s)
        self._prefill.append(bool(batch.prefill.any()))
        for request, prefill in zip(step.starting, batch.prefill.tolist(), strict=False):
            self._requests[request] = [start_s, end_s, end_s, 0, prefill]
        for request in batch.request.tolist():
            row = self._requests[request]
            row[2] = end_s
            row[3] += 1

    def iterations(self) -> pd.DataFrame:
        """A row per iteration: what it demanded, found and copied, and when."""
        columns = dict(zip(self._WHOLE, self._whole, strict=True)) | dict(
            zip(self._SECONDS, self._seconds, strict=True)
        )
        frame = pd.DataFrame({name: pd.Series(column) for name, column in columns.items()})
        frame.insert(1, "prefill", pd.Series(self._prefill, dtype=bool))
        return frame

    def requests(self) -> pd.DataFrame:
        """A row per request: times in seconds since the start, TTFT (missing without a prefill) and TPOT.

        TPOT is the mean time of the output tokens after the first; without a prefill every iteration counts. It is
        missing for a request with no such token.
        """
        names = ["start_s", "first_token_s", "end_s", "output_tokens", "has_prefill"]
        frame = pd.DataFrame.from_dict(self._requests, orient="index", columns=names, dtype=float)
        prefill = frame.pop("has_prefill") == 1
        decoded = frame["output_tokens"] - prefill
        began = frame["first_token_s"].where(prefill, frame["start_s"])
        frame["ttft_s"] = (frame["first_token_s"] - frame["start_s"]).where(prefill)
        frame["tpot_s"] = ((frame["end_s"] - began) / decoded).where(decoded > 0)
        frame["latency_s"] = frame["end_s"] - frame["start_s"]
        frame["output_tokens"] = frame["output_tokens"].astype(int)
        return frame.rename_axis("request").reset_index()

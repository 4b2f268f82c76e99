"""What a run leaves behind: a row per iteration and a row per request."""

from collections.abc import Sequence

import pandas as pd

from policies.cache.residency import Counts
from policies.types import Batch
from sim.engine.time_split import PARTS, WAITS, KnownParts, parts_of


class Recorder:
    """Collects the iterations and requests of one run."""

    _COLUMNS = (
        "iteration",
        "prefill",
        "requests",
        "tokens",
        "hits",
        "late",
        "misses",
        "copied_bytes",
        "start_s",
        "end_s",
        *KnownParts._fields,
    )

    def __init__(self) -> None:
        self._rows: list[tuple[int | bool | float, ...]] = []
        self._before = (0, 0, 0, 0)
        self._requests: dict[int, list[float]] = {}  # start_s, first_token_s, end_s, output_tokens, has_prefill

    def iteration(
        self,
        batch: Batch,
        starting: Sequence[int],
        start_s: float,
        end_s: float,
        known: KnownParts,
        counts: Counts,
    ) -> None:
        """One iteration has ended, the first of `starting`; `known` are parts of its time."""
        requests, prefill = batch.request.tolist(), batch.prefill.tolist()
        now = (counts.hits, counts.late, counts.misses, counts.bytes)
        hits, late, misses, copied = (value - before for value, before in zip(now, self._before, strict=True))
        self._before = now
        self._rows.append(
            (
                batch.iteration,
                any(prefill),
                len(requests),
                len(batch.token),
                hits,
                late,
                misses,
                copied,
                start_s,
                end_s,
                *known,
            )
        )
        for request, prefills in zip(requests, prefill, strict=True):
            if request in starting:
                self._requests[request] = [start_s, end_s, end_s, 0, prefills]
            row = self._requests[request]
            row[2] = end_s
            row[3] += 1

    def iterations(self) -> pd.DataFrame:
        """A row per iteration: what it demanded, found and copied, when, and where its time went.

        `wait_s` is the sum of all waits, and `PARTS` add up to `end_s − start_s`.
        """
        frame = pd.DataFrame(self._rows, columns=list(self._COLUMNS))
        known = frame[list(KnownParts._fields)].to_numpy(float)
        parts = parts_of(frame["start_s"].to_numpy(float), frame["end_s"].to_numpy(float), known)
        frame = frame.drop(columns=list(KnownParts._fields))
        frame[list(PARTS)] = parts
        frame["wait_s"] = frame[list(WAITS)].sum(axis=1)
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

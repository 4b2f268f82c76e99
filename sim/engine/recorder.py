"""The rows that a run records: one per iteration and one per request."""

from collections.abc import Sequence

import numpy as np
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
        """Record an iteration, which is the first of the requests in `starting`; `known` are parts of its time."""
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
        """A row per iteration: its demands, hits, copied bytes and times, and where its time went.

        `wait_s` is the sum of all waits, and `PARTS` add up to `end_s − start_s`.
        """
        columns = list(zip(*self._rows, strict=True)) or [()] * len(self._COLUMNS)
        table = {name: np.array(column) for name, column in zip(self._COLUMNS, columns, strict=True)}
        table["prefill"] = table["prefill"].astype(bool)  # even without any iteration
        known = np.array([table.pop(name) for name in KnownParts._fields], float)
        parts = parts_of(
            table["start_s"], table["end_s"], known.T
        )  # part by part, so that sums do not depend on the number of rows
        table |= dict(zip(PARTS, parts.T, strict=True))
        table["wait_s"] = np.sum([table[name] for name in WAITS], axis=0)
        return pd.DataFrame(table)

    def requests(self) -> pd.DataFrame:
        """A row per request: times in seconds since the start, TTFT (missing without a prefill) and TPOT.

        TPOT is the mean time per output token after the first; without a prefill, every iteration counts. It is missing
        for a request without such tokens.
        """
        rows = np.array(list(self._requests.values()), float).reshape(-1, 5)
        start_s, first_token_s, end_s, output_tokens, has_prefill = rows.T
        prefill = has_prefill == 1
        decoded = output_tokens - prefill
        tpot_s = np.full(len(rows), np.nan)
        np.divide(end_s - np.where(prefill, first_token_s, start_s), decoded, out=tpot_s, where=decoded > 0)
        return pd.DataFrame(
            {
                "request": np.array(list(self._requests), int),
                "start_s": start_s,
                "first_token_s": first_token_s,
                "end_s": end_s,
                "output_tokens": output_tokens.astype(int),
                "ttft_s": np.where(prefill, first_token_s - start_s, np.nan),
                "tpot_s": tpot_s,
                "latency_s": end_s - start_s,
            }
        )

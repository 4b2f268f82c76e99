"""The tables of a comparison: the figures of each policy, and where the time of its iterations goes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from common.folding import NAME_WIDTH, WIDTH, folded_name
from common.tables import MISSING, Unit, byte_unit, number, text_table, time_unit
from common.wide_tables import wide_table
from sim.labels import marked
from sim.results.summary import Summary

_SPLIT = {  # parts of an iteration's time, as `sim.engine.time_split` defines them
    "compute_s": "com-\npute",
    "exchange_s": "ex-\nchg.",
    "overhead_s": "over-\nhead",
    "miss_wait_s": "\nmiss",
    "late_wait_s": "\nlate",
    "wave_wait_s": "\nwave",
    "search_wait_s": "\nsearch",
    "prefetch_wait_s": "pre-\nfetch",
}
Values = Sequence[float | None]
_Written = tuple[str, Callable[[float | None], str]]  # the name of a unit, and a function that formats a value in it


class _Column(NamedTuple):
    """A column of figures from a summary."""

    header: str  # with `{unit}` in place of the unit
    keys: tuple[str, ...]  # of the figures in a cell
    unit: Callable[[Values], _Written]
    needs: str | None = None  # the column is left out unless some row has this figure


def _in(unit_of: Callable[[Values], Unit], values: Values) -> _Written:
    unit = unit_of(values)
    return unit.name, unit.text


def _as(form: str, factor: float, unit: str, values: Values) -> _Written:
    return unit, lambda value: number(value, form, factor, unit=" ×" if unit == "×" else "")


_times, _bytes = partial(_in, time_unit), partial(_in, byte_unit)
_percent, _whole_percent = partial(_as, ".1f", 100, "%"), partial(_as, ".0f", 100, "%")
_times_as_long = partial(_as, ".2f", 1, "×")
_PREFETCHES = "prefetched_copies"
_OVER = (
    _Column("TPOT\nover no-\noffload", ("tpot_over_no_offload",), _times_as_long),
    _Column("TPOT\nover best\nknown", ("tpot_over_best_known",), _times_as_long),
)
_TTFT, _TPOT = _Column("TTFT\n{unit}", ("ttft_s_mean",), _times), _Column("TPOT\n{unit}", ("tpot_s_mean",), _times)
_HITS = _Column("hit\nrate {unit}", ("hit_rate",), _percent)
_TRAFFIC = _Column("{unit} per\ntoken", ("bytes_per_token",), _bytes)
_BRIEF = (_TTFT, _TPOT, _HITS, _TRAFFIC)
_NARROW = (
    _TTFT,
    _TPOT,
    *_OVER,
    _HITS,
    _Column("hit +\nlate {unit}", ("hit_or_late_rate",), _percent, _PREFETCHES),
    _TRAFFIC,
)
_WIDE = (
    _Column("TTFT {unit}\nmean / p50 / p95", ("ttft_s_mean", "ttft_s_p50", "ttft_s_p95"), _times),
    _Column("TPOT {unit}\nmean / p50 / p95", ("tpot_s_mean", "tpot_s_p50", "tpot_s_p95"), _times),
    *_OVER,
    _Column("hit rate {unit}\nall / prefill / decode", ("hit_rate", "hit_rate_prefill", "hit_rate_decode"), _percent),
    _Column(
        "hit + late {unit}\nall / prefill / decode",
        ("hit_or_late_rate", "hit_or_late_rate_prefill", "hit_or_late_rate_decode"),
        _percent,
        _PREFETCHES,
    ),
    _Column("late\n{unit}", ("late_rate",), _percent, _PREFETCHES),
    _Column("miss\n{unit}", ("miss_rate",), _percent),
    _Column(
        "prefetches {unit}\nuseful / late / wasted",
        ("prefetch_useful", "prefetch_late", "prefetch_wasted"),
        _whole_percent,
        _PREFETCHES,
    ),
    _Column("copied\n{unit}/token", ("bytes_per_token",), _bytes),
    _Column("peak expert\nmemory {unit}", ("expert_memory_bytes",), _bytes),
)


def brief_table(summaries: Sequence[Summary]) -> str:
    """A row per policy, with only its times, hit rate and traffic."""
    return _joined(summaries, _filled(_BRIEF, summaries), wide=False)


def figures_table(summaries: Sequence[Summary], *, wide: bool = False) -> str:
    """A row per policy; columns without any value are left out."""
    return _joined(summaries, _filled(_WIDE if wide else _NARROW, summaries), wide)


def _filled(wanted: Sequence[_Column], summaries: Sequence[Summary]) -> list[list[str]]:
    """The header and cells of each column that has any value."""
    columns = []
    for column in wanted:
        rows = [[each.get(key) for key in column.keys] for each in summaries]
        if _has_values(column, rows, summaries):
            unit, text = column.unit([row[0] for row in rows])
            columns.append([column.header.format(unit=unit), *(" / ".join(map(text, row)) for row in rows)])
    return columns


def split_tables(summaries: Sequence[Summary], *, wide: bool = False) -> Iterator[str]:
    """Where the time of a mean decode step (or else prefill) goes, with a heading; both if `wide`."""
    phases = [each for each in ("decode", "prefill") if any(row[f"{each}_compute_s"] is not None for row in summaries)]
    for phase in phases if wide else phases[:1]:
        rows = [{part: each[f"{phase}_{part}"] for part in _SPLIT} for each in summaries]
        total_s = [_sum(row.values()) for row in rows]
        unit = time_unit(total_s)._replace(digits=2)  # parts may be small
        columns = [["all", *map(unit.text, total_s)]]
        for part, header in _SPLIT.items():
            if any(row[part] for row in rows):
                columns.append([header, *(unit.text(row[part]) if row[part] else _nothing(row[part]) for row in rows)])
        what = "prefill" if phase == "prefill" else "decode iteration"
        heading = f"Where the time of a mean {what} goes, {unit.name} (`miss` and the columns after it: waiting)"
        yield f"{heading}\n{_joined(summaries, columns, wide)}"


def _has_values(column: _Column, rows: Sequence[Values], summaries: Sequence[Summary]) -> bool:
    needed = column.needs is None or any(each[column.needs] for each in summaries)
    return needed and any(value is not None and value == value for row in rows for value in row)


def _nothing(seconds: float | None) -> str:
    """Zero, or a dash if there is no such iteration."""
    return MISSING if seconds is None else "0"


def _sum(parts: Iterable[float | None]) -> float | None:
    """The sum of the parts; None if there is no such iteration."""
    seconds = [each for each in parts if each is not None]
    return sum(seconds) if seconds else None


def _joined(summaries: Sequence[Summary], columns: Sequence[Sequence[str]], wide: bool) -> str:
    """Policies and columns as one `wide` table, or as several with lines of at most 100 characters."""
    if wide:
        header, *rows = zip(["policy", *(marked(each["label"], each) for each in summaries)], *columns, strict=True)
        return text_table(rows, header)
    first = ["policy", *(marked(folded_name(each["label"], NAME_WIDTH, "  "), each) for each in summaries)]
    return "\n\n".join(wide_table(first, columns, WIDTH))

"""Draw one iteration as simulated and as measured, one above the other, from the two decision logs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.errors import FieldError, UserError
from common.figures import COMPUTES, DEMANDED, DEMANDED_EDGE, PREFETCHED, PREFETCHED_EDGE, WAITS, figure, panels, save
from policies.cache.decision_log import LoggedCall, Transfer, transfers
from sim.results.event_table import logged_calls
from sim.results.result import Result
from validate.comparison.matching import Folder

_DEMANDED, _PREFETCHED = (DEMANDED, DEMANDED_EDGE), (PREFETCHED, PREFETCHED_EDGE)
_BAR = 0.7  # height, as a share of a lane
_NAME, _NUMBER = 0.045, 0.012  # width of a layer's label, as a share of the picture


class Iteration(NamedTuple):
    """Whether any request was prefilled in an iteration, and when it began and ended."""

    prefill: bool
    start_s: float
    end_s: float


class Log(NamedTuple):
    """The decision log of a policy, in the order of time, and its iterations by number."""

    rows: list[LoggedCall]
    iterations: dict[int, Iteration]


class LayerSpan(NamedTuple):
    """A layer from the moment its router has run; ready when the last expert that it waited for had arrived."""

    layer: int
    demand_s: float
    ready_s: float
    release_s: float


class Strip(NamedTuple):
    """An iteration of one run, as it is drawn; times count from its beginning, copies are cut off at both ends."""

    seconds: float
    layers: list[LayerSpan]
    transfers: list[Transfer]


def logs_of(folder: Folder, policies: Sequence[str]) -> dict[str, Log]:
    """The log of each policy; a `UserError` if a run did not keep one."""
    results = {result.scenario.policy: result for result in folder.results}
    return {policy: _log_of(folder, results[policy]) for policy in policies}


def _log_of(folder: Folder, result: Result) -> Log:
    if result.events is None or result.iterations is None:
        raise UserError(f"{folder.path} has no events to draw timelines from; repeat both runs with `--detail events`")
    times = result.iterations.set_index("iteration")[list(Iteration._fields)]
    iterations = {int(row[0]): Iteration(*row[1:]) for row in times.itertuples(name=None)}
    return Log(logged_calls(result.events), iterations)


def typical_iteration(logs: Mapping[str, Log]) -> int:
    """The decode iteration whose time, over all policies together, is the median (the lower of two)."""
    one, *others = logs.values()
    taken_s = {
        number: sum(log.iterations[number].end_s - log.iterations[number].start_s for log in logs.values())
        for number in one.iterations
        if all(number in log.iterations for log in others)
    }
    decode = [number for number in taken_s if not one.iterations[number].prefill]
    numbers = sorted(decode or taken_s, key=lambda number: taken_s[number])
    return numbers[(len(numbers) - 1) // 2]


def strip(log: Log, iteration: int) -> Strip:
    """The layers and copies of an iteration."""
    _, start_s, end_s = log.iterations[iteration]
    rows = [row for row in log.rows if row.time_s <= end_s]
    carried = [each for each in transfers(rows) if each.end_s > start_s and each.start_s < end_s]
    return Strip(
        seconds=end_s - start_s,
        layers=list(_layers([row for row in rows if row.time_s >= start_s], carried, start_s)),
        transfers=[
            each._replace(start_s=max(each.start_s - start_s, 0.0), end_s=min(each.end_s, end_s) - start_s)
            for each in carried
        ],
    )


def _layers(rows: Sequence[LoggedCall], carried: Sequence[Transfer], start_s: float) -> Iterator[LayerSpan]:
    """The layers demanded in `rows`, which are those of one iteration."""
    released = {row.layer: row.time_s for row in rows if row.call == "release"}  # the last one counts
    for row in rows:
        if row.call == "demand" and row.layer in released:
            arrivals = [
                each.end_s
                for each in carried
                if each.complete and each.layer == row.layer and each.expert in row.experts
                if row.time_s <= each.end_s <= released[row.layer]
            ]
            times = (row.time_s, max(arrivals, default=row.time_s), released[row.layer])
            yield LayerSpan(row.layer, *(time_s - start_s for time_s in times))


def draw(simulated: Mapping[str, Log], measured: Mapping[str, Log], iteration: int, path: Path, *, title: str) -> None:
    """Draw two strips per policy, simulated above measured, over one axis of milliseconds.

    A strip has a lane for the layers and one for each link, up to the last one used.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    for logs in (simulated, measured):
        for policy, log in logs.items():
            if iteration not in log.iterations:
                last = max(log.iterations)
                raise FieldError("iteration", f"must be from 0 to {last} for {policy}, not {iteration}")
    strips = {
        policy: [("simulated", strip(simulated[policy], iteration)), ("measured", strip(measured[policy], iteration))]
        for policy in simulated
    }
    links = {
        policy: max((1 + each.gpu for _, one in both for each in one.transfers), default=0)
        for policy, both in strips.items()
    }
    lanes = [1 + links[policy] for policy in strips for _ in range(2)]
    width_ms = max(one.seconds for both in strips.values() for _, one in both) * 1e3
    drawn = figure(11, 1.4 + sum(0.5 + 0.26 * count for count in lanes))
    rows = iter(panels(drawn, len(lanes), sharex=True, height_ratios=lanes)[:, 0])
    for policy, both in strips.items():
        for kind, one in both:
            axes = next(rows)
            _draw_strip(axes, one, links[policy], width_ms)
            axes.set_title(f"{policy}, {kind}: {one.seconds * 1e3:.1f} ms", loc="left", fontsize=9, pad=10)
    axes.set(xlim=(0, width_ms * 1.01), xlabel=f"time since iteration {iteration} began [ms]")
    kinds = [
        Patch(facecolor=WAITS, edgecolor="white", hatch="////", label="layer waits for experts"),
        Patch(facecolor=COMPUTES, label="layer computes its experts"),
        Patch(facecolor=_DEMANDED[0], label="demanded copy"),
        Patch(facecolor=_PREFETCHED[0], label="prefetch"),
        Patch(facecolor="none", edgecolor="none", label="blank: attention, router, head"),
        Line2D([], [], color="black", linewidth=0.8, label="the iteration ends"),
    ]
    headed = {"title": f"Iteration {iteration} of {title}", "title_fontsize": 9}
    drawn.legend(handles=kinds, loc="outside upper center", ncols=len(kinds) // 2, frameon=False, fontsize=8, **headed)
    save(drawn, path)


def _draw_strip(axes: Any, one: Strip, links: int, width_ms: float) -> None:
    def bars(lane: int, spans: list[tuple[float, float]], **look: Any) -> None:
        scaled = [(begin_s * 1e3, (end_s - begin_s) * 1e3) for begin_s, end_s in spans]
        axes.broken_barh(scaled, (lane - _BAR / 2, _BAR), linewidth=0.4, **look)

    bars(0, [(each.demand_s, each.ready_s) for each in one.layers], facecolor=WAITS, edgecolor="white", hatch="////")
    bars(0, [(each.ready_s, each.release_s) for each in one.layers], color=COMPUTES)
    free_ms = 0.0
    for each in one.layers:
        wide = (each.release_s - each.demand_s) * 1e3 >= _NAME * width_ms
        label, width = (f"layer {each.layer}", _NAME) if wide else (f"{each.layer}", _NUMBER)
        middle_ms, half_ms = (each.demand_s + each.release_s) / 2 * 1e3, width * width_ms / 2
        if middle_ms - half_ms >= free_ms:
            look = {"textcoords": "offset points", "ha": "center", "va": "bottom", "fontsize": 6.5}
            axes.annotate(label, (middle_ms, -_BAR / 2), (0, 1), **look)
            free_ms = middle_ms + half_ms
    for gpu in range(links):
        for demanded, (color, edge) in ((True, _DEMANDED), (False, _PREFETCHED)):
            own = [each for each in one.transfers if (each.gpu, each.demanded) == (gpu, demanded)]
            bars(1 + gpu, [(each.start_s, each.end_s) for each in own], facecolor=color, edgecolor=edge)
    axes.set(
        ylim=(links + 0.5, -0.5), yticks=range(links + 1), yticklabels=["layers", *map("link {}".format, range(links))]
    )
    axes.axvline(one.seconds * 1e3, color="black", linewidth=0.8)
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.spines["left"].set_visible(False)

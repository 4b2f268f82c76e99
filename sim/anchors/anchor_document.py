"""The Markdown document of anchors. Its numbers come from the table of runs, its words from the anchors."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import median

from common.markdown_prose import item, paragraph
from common.tables import MISSING, markdown_table, number, percent
from sim.anchors.anchor import Anchor, AnchorPoint
from sim.anchors.anchor_table import BASE, AnchorTable
from sim.sweeps.run_table import Row
from traces.format.provenance import label

COMMAND = "finemoe sim anchors --routing ROUTING --out docs --overwrite"
_TIMES = ("measured_s_per_token", "simulated_s_per_token")
NEAR = 0.25
"""An error up to this counts as near."""


def document(table: AnchorTable, anchors: Sequence[Anchor], *, beside: str) -> str:
    """The whole text; `beside` is the folder of the picture and the tables, as used in links."""
    parts = ["# Anchors: simulated beside what others measured", *_opening(table, anchors, beside)]
    for anchor in anchors:
        parts += [f"## {anchor.title}", *_section(table, anchor)]
    parts += ["## Machines", *_machines(table)]
    return "\n\n".join(parts) + "\n"


def _opening(table: AnchorTable, anchors: Sequence[Anchor], beside: str) -> Iterator[str]:
    yield paragraph(
        "Measurements that others published, beside simulations of the same set-ups. Nothing in this project was "
        "fitted to them. One value of a machine does come from an anchor's author: the RTX 5090's CPU time per layer, "
        "from a run of the same model with everything on the GPU, which is not among the numbers below. "
        "**Measured** numbers come from the sources; **simulated** ones are computed. Where a source is silent, we "
        "make assumptions, and then change one at a time to show its effect. The error is the simulated time per token "
        "divided by the measured one, minus 1: at +100 % it is twice as long, at −50 % half as long."
    )
    yield paragraph(
        f"The whole file is written by `{COMMAND}`: do not edit it. The routing is `mixtral-8x7b-twin.trace` of that "
        "folder ([how to record it](comparison.md#make-the-traces)), or ROUTING is a trace of your own with the "
        "layers, experts per layer and top-k of Mixtral-8x7B (32, 8, 2). `make anchors` records it and writes this "
        f"file. The runs are in [{beside}/runs.csv]({beside}/runs.csv)."
    )
    rows = [(anchor, point, row) for anchor in anchors for point, row in _pairs(table, anchor)]
    yield paragraph(_verdict(table, [row for _, _, row in rows]))
    yield _markdown(
        ["anchor", "what", "measured", "simulated", "error", "error over all variations"],
        [
            [_machine_name(table, anchor), point.name, *_both(anchor, row), percent(row["error"]), _range(table, row)]
            for anchor, point, row in rows
        ],
        texts=2,
    )
    yield f"![Simulated over measured time per token]({beside}/anchors.png)"


def _verdict(table: AnchorTable, rows: Sequence[Row]) -> str:
    errors = [row["error"] for row in rows if row["error"] is not None]
    if not errors:
        return "No run finished."
    near = sum(abs(error) <= NEAR for error in errors)
    fast = sum(error < 0 for error in errors)
    within = sum(low <= 0 <= high for low, high in filter(None, (_ends(table, row) for row in rows)))
    worst = max((row for row in rows if row["error"] is not None), key=lambda row: abs(row["error"]))
    orders = [_orders([row for row in rows if row["anchor"] == name]) for name in dict.fromkeys(_anchors(rows))]
    pairs, wrong = sum(count for count, _ in orders), sum(len(found) for _, found in orders)
    limit, middle = (percent(share, signed=False) for share in (NEAR, median(map(abs, errors))))
    return (
        f"**Of {len(errors)} numbers, {near} are within {limit}.** The median error, without its sign, is {middle}, "
        f"the largest {percent(worst['error'])} ({worst['point']}). "
        f"{fast} are simulated too fast, {len(errors) - fast} too slow. Of {pairs} pairs of numbers from one source, "
        f"{pairs - wrong} come in the measured order. For {within} numbers the measured value lies within the range of "
        f"the variations; for the other {len(errors) - within} no single varied assumption explains the error. Expect "
        "errors of this size for a machine that you hardly know: measure a machine before you rely on its times "
        "([machines.md](machines.md))."
    )


def _section(table: AnchorTable, anchor: Anchor) -> Iterator[str]:
    yield paragraph(f"Source: [{anchor.source}]({anchor.url}).")
    lines = [f"- **Known:** {each}." for each in anchor.known] + [f"- **Assumed:** {each}." for each in anchor.assumed]
    machine = f"- **The machine** is `sim/anchors/machines/{anchor.machine}.toml`; its values are listed below."
    yield "\n".join(map(item, [*lines, machine]))
    pairs = list(_pairs(table, anchor))
    replayed = any(point.hit_rate is not None for point, _ in pairs)
    headers = ["what", "policy", "measured", "simulated", "error", "hit rate", "GB copied per token", "assumed"]
    if replayed:
        headers.insert(5, "published hit rate")
    yield _markdown(headers, [_point_cells(anchor, point, row, replayed) for point, row in pairs], texts=2)
    yield paragraph(_order([row for _, row in pairs]))
    yield paragraph("The error with one assumption changed at a time:")
    yield "\n".join(item(f"- *{each.name}*: {each.meaning}.") for each in anchor.variations)
    names = [BASE, *(each.name for each in anchor.variations)]
    found = {(row["point"], row["variation"]): row for row in table.rows if row["anchor"] == anchor.key}
    yield _markdown(
        ["what", *names],
        [[point.name, *(_cell(found.get((point.name, name))) for name in names)] for point, _ in pairs],
        texts=1,
    )
    for row in found.values():
        if row["status"] not in ("done", None):
            yield paragraph(f"No run of {row['point']}, {row['variation']}: {row['reason']}.")
    yield paragraph("Possible explanations of the errors:")
    yield "\n".join(item(f"- {each}") for each in anchor.reading)


def _point_cells(anchor: Anchor, point: AnchorPoint, row: Row, replayed: bool) -> list[str]:
    hits = [percent(row["published_hit_rate"], 1, signed=False)] if replayed else []
    return [
        point.name,
        f"`{point.policy}`",
        *_both(anchor, row),
        percent(row["error"]),
        *hits,
        percent(row["hit_rate"], 1, signed=False),
        number(row["bytes_per_token"], ".2f", 1e-9),
        point.assumed,
    ]


def _order(rows: Sequence[Row]) -> str:
    """How many pairs of points come in the measured order, and which do not."""
    pairs, wrong = _orders(rows)
    if not pairs:
        return "Fewer than two of these were simulated."
    summary = f"Of {pairs} pairs, {pairs - len(wrong)} come in the measured order"
    summary += f"; reversed: {'; '.join(wrong)}." if wrong else "."
    known = [row for row in rows if row["error"] is not None]
    spans = [max(times) / min(times) for times in ([row[key] for row in known] for key in _TIMES)]
    return (
        f"{summary} The slowest takes {spans[0]:.1f} times as long as the fastest in the measurements, {spans[1]:.1f} "
        "times in the simulations."
    )


def _orders(rows: Sequence[Row]) -> tuple[int, list[str]]:
    """The number of pairs of simulated points of one anchor, and the pairs in the reverse order."""
    pairs = list(combinations((row for row in rows if row["error"] is not None), 2))
    wrong = [
        f"{one['point']} and {other['point']}"
        for one, other in pairs
        if len({one[key] < other[key] for key in _TIMES}) > 1
    ]
    return len(pairs), wrong


def _anchors(rows: Sequence[Row]) -> list[str]:
    return [row["anchor"] for row in rows]


def _machines(table: AnchorTable) -> Iterator[str]:
    yield paragraph(
        "The values of the machines and their sources. A value whose source begins with *assumption* is a guess; "
        "`framework` is CPU time that the GPU waits for ([machines.md](machines.md))."
    )
    for name, machine in table.inputs["machines"].items():
        yield f"### {name}"
        rows = [[f"`{key}`", each["value"], each["source"]] for key, each in machine["figures"].items()]
        yield _markdown(["figure", "value", "source"], rows, texts=1)
    routing = table.inputs["routing"]
    yield paragraph(
        f"Routing: {routing['routing']} (prompts: {routing['prompts'] or 'not stated'}; digest "
        f"`{routing['digest'][:12]}`), at most {routing['requests']} requests, batch 1, with the others as history. "
        f"The demands of anchors with a published hit rate are {label('synthetic')}."
    )


def _pairs(table: AnchorTable, anchor: Anchor) -> Iterator[tuple[AnchorPoint, Row]]:
    rows = {row["point"]: row for row in table.of(anchor.key)}
    return ((point, rows[point.name]) for point in anchor.points)


def _both(anchor: Anchor, row: Row) -> tuple[str, str]:
    """The measured value as published, and the simulated one in the same unit."""
    simulated = row["simulated_s_per_token"]
    if anchor.unit == "s per token":
        return f"{row['measured']:g} s", number(simulated, ".3f", unit=" s")
    return f"{row['measured']:g}/s", number(simulated and 1 / simulated, ".2f", unit="/s")


def _ends(table: AnchorTable, row: Row) -> tuple[float, float] | None:
    errors = [each["error"] for each in table.spread(row["anchor"], row["point"])]
    return (min(errors), max(errors)) if errors else None


def _range(table: AnchorTable, row: Row) -> str:
    ends = _ends(table, row)
    return MISSING if ends is None else f"{percent(ends[0])} … {percent(ends[1])}"


def _cell(row: Row | None) -> str:
    return MISSING if row is None else percent(row["error"])


def _machine_name(table: AnchorTable, anchor: Anchor) -> str:
    name: str = table.inputs["machines"][anchor.machine]["gpu"]
    return name


def _markdown(headers: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int) -> str:
    return markdown_table([list(row) for row in rows], headers, texts=texts)

"""The document of a comparison, in Markdown: every sentence and number in it follows from the table of runs."""

import re
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from common.errors import listed
from common.markdown_prose import item, paragraph
from common.tables import MISSING, markdown_table
from sim.ranking.figure_tables import NOT_CHARGED, FigureTables
from sim.ranking.footnotes import Footnotes
from sim.ranking.order_tables import NAMES, TIES, OrderTables, Rows, gigabytes, with_groups
from sim.ranking.orders import TIE
from traces.format.provenance import caution

COMMAND = "finemoe sim comparison --routing ROUTING --store STORE --out docs --overwrite"


def document(orders: OrderTables, *, beside: str) -> str:
    """The whole text; `beside` is the folder of the picture and the tables, as links have it."""
    return _Document(orders, beside).text()


class _Document:
    def __init__(self, orders: OrderTables, beside: str) -> None:
        self._orders, self._beside = orders, beside
        self._table, self._compared = table, compared = orders.table, orders.compared
        self._figures = FigureTables(orders)
        self._traces = table.inputs["traces"]
        self._metrics = orders.metrics
        self._notes = Footnotes(table, compared)

    def text(self) -> str:
        parts: list[str] = [
            "# Comparison: which system is fastest where",
            *self._opening(),
            "## Orders",
            *self._order_section(),
            "## Which is fastest",
            *self._first_section(),
            "## Where the order flips",
            *self._flip_section(),
            "## Pairs with one winner everywhere",
            *self._constant_section(),
            f"## {self._compared.subject}'s parts",
            *self._ablation_section(),
            "## What was compared",
            *self._subject_section(),
            "## Make the traces",
            *self._making_section(),
            "## Figures",
            *self._figure_section(),
        ]
        return "\n\n".join(parts) + "\n"

    def _opening(self) -> Iterator[str]:
        subject = self._compared.subject
        done = sum(row["status"] == "done" for row in self._table.rows)
        systems = len(self._compared.of_role("system"))
        places, machines = len(self._table.places("tpot")), len(self._compared.machines)
        yield paragraph(
            f"All times here are **simulated**, not measured. {done:,} runs: {systems} forms of "
            f"systems, and variants of {subject}, on {len(self._traces)} traces with caches of "
            f"{listed(map(gigabytes, self._compared.cache_gb))} GB of experts, on {machines} machines. That makes "
            f"{places * machines} settings (trace, cache, machine). Each order is the order of one setting; statements "
            "about several settings count them."
        )
        yield paragraph(
            f"`{COMMAND}` writes this whole file: do not edit it. "
            f"[{self._beside}/runs.csv]({self._beside}/runs.csv) has the runs behind it, "
            f"[{self._beside}/flips.csv]({self._beside}/flips.csv) every flip."
        )
        names = ", ".join(f"`{each.name}.trace`" for each in self._compared.traces)
        yield paragraph(
            f"ROUTING is a folder with any of these traces, by name: {names}. [Make them one by one](#make-the-traces) "
            "or all with `make comparison`, which then compares them. To rank policies on a trace of your own, use a "
            "sweep ([sweeps.md](sweeps.md))."
        )
        for name, facts in self._traces.items():
            yield from map(paragraph, caution(facts["warning"], name=name, width=10_000))
        yield from self._left_out()
        yield f"![Time of each system over that of LRU]({self._beside}/comparison.png)"

    def _left_out(self) -> Iterator[str]:
        """The missing traces."""
        for each in self._compared.traces:
            if each.title not in self._traces:
                yield paragraph(f"**Left out: {each.title}**, because `{each.name}.trace` is missing.")

    def _order_section(self) -> Iterator[str]:
        letters = [f"**{each.letter}** {each.name}" for each in self._compared.of_role("system")]
        oracles = [each.name for each in self._compared.of_role("system") if each.knows_the_future]
        yield paragraph(
            f"Two systems tie if their means differ by less than {TIE * 100:.0f} %, or if the 95 % bootstrap interval "
            "of their difference, paired by request and resampled over requests, includes 0. The machines:"
        )
        yield "\n".join(item(f"- *{each.name}*: {each.meaning}") for each in self._compared.machines)
        yield paragraph(
            f"Each cell names systems by a letter, the fastest first; neighbours in brackets tie. ⇅ counts the pairs "
            f"that flip compared with *{self._compared.base}*. The letters: {', '.join(letters)}; {listed(oracles)} "
            "knows the future."
        )
        table = self._orders.order_rows(self._metrics, "`{}`")
        rows = [[self._notes.marked(trace), *rest] for trace, *rest in table.rows]
        yield markdown_table(with_groups(rows), table.headers, texts=len(table.headers))
        if notes := list(self._notes.texts()):
            yield "\n".join(map(item, notes))

    def _first_section(self) -> Iterator[str]:
        subject = self._compared.subject
        yield paragraph(
            "First table: the number of settings in which a system is the fastest, or ties with the fastest; systems "
            f"that know the future are left out. Second table: {subject} against each other system, as the number of "
            "settings in which it is faster / ties / is slower, and the median of its time divided by the other's, "
            "minus 1. All cells count traces and caches."
        )
        for metric in self._metrics:
            count = len(self._table.places(metric))
            yield f"By {NAMES[metric]}, of {count} settings per machine:"
            yield _markdown(self._orders.first_rows(metric))
            yield _markdown(self._orders.subject_rows(metric))

    def _flip_section(self) -> Iterator[str]:
        base, subject = self._compared.base, self._compared.subject
        yield paragraph(
            f"A pair flips if one system is faster on *{base}* and the other is faster on another machine, with the "
            "same trace and cache, and neither result is a tie. Cells count the traces and caches in which the pair "
            "flips. The largest flip is the one with the largest change. It shows the time of the named system "
            f"relative to the other one of its pair, on *{base}* → on the machine of the flip."
        )
        for metric in self._metrics:
            flips, rows = self._orders.flips[metric], self._orders.flip_rows(metric)
            pairs = self._orders.pairs(metric)
            changed = ", ".join(f"{count} on *{name}*" for name, count in self._orders.changed(metric))
            yield paragraph(
                f"By {NAMES[metric]}, {len(rows.rows)} of {pairs} pairs flip, {len(flips)} times in all. Of the "
                f"{len(self._table.places(metric))} orders on *{base}*, {changed} have at least one flip."
            )
            if rows.rows:
                yield _markdown(rows)
            own = self._orders.subject_flip_rows(metric)
            if own.rows:
                yield paragraph(
                    f"Flips of {subject}: its {NAMES[metric]} divided by the other system's, minus 1, in % (negative: "
                    f"{subject} is faster; `{TIES}`: a tie). Bold: the pair flips compared with *{base}*."
                )
                yield markdown_table(with_groups(own.rows), own.headers, texts=2)
            else:
                yield f"{subject} is not part of any flip."

    def _constant_section(self) -> Iterator[str]:
        yield paragraph(
            "These systems are faster, without a tie, in every setting that shows both. In brackets: the number of "
            "settings. Other traces, caches and machines may differ."
        )
        for metric in self._metrics:
            lines = [
                f"- {one} than " + ", ".join(f"{other} ({count})" for other, count in beaten)
                for one, beaten in self._orders.constant(metric)
            ]
            yield f"By {NAMES[metric]}:"
            yield "\n".join(item(line) for line in lines) or "- no pair"

    def _ablation_section(self) -> Iterator[str]:
        yield paragraph(
            f"Change of {self._compared.subject}'s times in percent (+ longer, − shorter) when one part is replaced, "
            f"at {self._figures.caches} GB; `{TIES}` is a tie. "
            + "; ".join(f"*{each.name}*: `{each.policy}`" for each in self._compared.of_role("ablation"))
            + "."
        )
        for metric in self._metrics:
            rows = self._figures.ablation_rows(metric)
            if rows.rows:
                yield f"{NAMES[metric]}:"
                yield markdown_table(with_groups(rows.rows), rows.headers, texts=2)

    def _subject_section(self) -> Iterator[str]:
        facts = list(self._traces.values())
        if facts:
            yield paragraph(
                f"Requests run one after the other in batches of {facts[0]['batch_size']}; seed {facts[0]['seed']} "
                "decides which requests are history and what policies draw. The intervals behind ties cover only the "
                "choice of requests. They do not cover other seeds, traces or machines, nor what the model of time "
                "leaves out."
            )
        headers = ["trace", "routing", "decoded tokens", "sizes", "learned from", "requests run", "output tokens"]
        yield markdown_table([[name, *_trace_cells(each)] for name, each in self._traces.items()], headers, texts=4)
        yield "\n".join(item(f"- {name}: {_origin(each)}.") for name, each in self._traces.items())
        headers = ["", "distinct tokens", "repeated 4-grams", "repeated rows", "nearest-map recall"]
        yield paragraph(
            "How natural the traces' decode tokens are ([naturalness.md](naturalness.md)), and the share of the "
            "experts that each cache holds:"
        )
        yield markdown_table([[name, *_natural_cells(each)] for name, each in self._traces.items()], headers)
        yield _markdown(self._figures.cache_rows())
        yield paragraph(
            "`finemoe sim machines TEXT` lists every figure of a machine with its source "
            "([machines.md](machines.md)). [systems.md](systems.md) describes what each system plans, what it waits "
            "for, and what its predictions cost."
        )
        headers = ["machine", "text", "is"]
        machines = self._table.inputs["machines"].items()
        yield markdown_table(
            [[name, f"`{each['machine']}`", each["described"] or MISSING] for name, each in machines], headers, texts=3
        )
        rows = [
            [each.letter, each.name, f"`{each.policy}`"] for each in self._compared.systems if each.role != "ablation"
        ]
        yield markdown_table(rows, ["letter", "system", "policy"], texts=3)

    def _making_section(self) -> Iterator[str]:
        sources = [f"`DATA/{each.data}` ({each.source})" for each in self._compared.traces if each.data]
        yield "These commands make the traces in a folder ROUTING."
        if sources:
            yield paragraph(
                f"Recordings of others do not ship with the project: download them, here as {listed(sources)}. `make "
                "comparison` records the twins in `comparison-out/routing`, and converts the recordings that it finds "
                "in the folder `FINEMOE_DATA`."
            )
        commands = [_broken(command) for each in self._compared.traces for command in each.made_by]
        yield "<!-- not run: long, or for data that does not ship -->\n```sh\n" + "\n".join(commands) + "\n```"

    def _figure_section(self) -> Iterator[str]:
        not_charged = [each.name for each in self._compared.systems if each.name in self._figures.not_charged]
        charged = f" {NOT_CHARGED}: predictions take no time ({', '.join(not_charged)})." if not_charged else ""
        yield paragraph(f"Each cell has one number per cache: {self._figures.caches} GB.{charged}")
        for trace in self._figures.traces:
            for metric in self._metrics:
                if any(trace == name for name, _ in self._table.places(metric)):
                    yield f"### {NAMES[metric]}: {trace}"
                    yield _markdown(self._figures.time_rows(trace, metric))
        yield f"### Hit rates on {self._compared.base}, %"
        yield paragraph(
            "Hit: the expert was on its GPU when the router chose it. Hit + late: it was there, or its copy had begun. "
            "Systems that wait for their prefetches before a layer starts pay for their rates with that waiting."
        )
        yield _markdown(self._figures.hit_rows(), texts=2)


def _broken(command: str) -> str:
    """A command in lines that fit the page."""
    joined = re.sub(r"(--\S+) (?!--)", "\\1\0", command)  # an option and its value stay together
    return " \\\n    ".join(wrap(joined, 96, break_long_words=False, break_on_hyphens=False)).replace("\0", " ")


def _trace_cells(facts: Mapping[str, Any]) -> list[str]:
    names = ("routing", "decoded_tokens", "sizes", "history_requests", "requests", "output_tokens")
    return [MISSING if facts[name] is None else str(facts[name]) for name in names]


def _origin(facts: Mapping[str, Any]) -> str:
    """Where a trace comes from, with the notes of its maker."""
    prompts = f"prompts: {facts['prompts']}" if facts["prompts"] else None
    return "; ".join(filter(None, (facts["source"], prompts, facts["notes"])))


def _natural_cells(facts: Mapping[str, Any]) -> list[str]:
    shares = [facts[name] for name in ("distinct_tokens", "repeated_4grams", "repeated_rows")]
    recall = facts["nearest_map_recall"]
    return [
        *(MISSING if share is None else f"{share * 100:.1f} %" for share in shares),
        MISSING if recall is None else f"{recall:.3f}",
    ]


def _markdown(table: Rows, *, texts: int = 1) -> str:
    return markdown_table(table.rows, table.headers, texts=texts)

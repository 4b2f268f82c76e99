"""Write the paper's statements beside ours: `paper_vs_ours.csv`, a row per claim and footing, and `paper_vs_ours.md`.

The document is made from the rows alone: verdicts, counts, reasons and rules.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import replacing
from common.markdown_prose import item, paragraph
from common.tables import markdown_table, text_table
from sim.paper.claims.claim import BOTH, NOT_JUDGED, REPRODUCED, VERDICTS, Claim, Tables, figure_name
from sim.paper.claims.general_claims import ABOUT, general_claims
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.footings import FOOTINGS
from sim.paper.verdicts.judgement import Judgement, rules_in_words
from sim.paper.verdicts.verdict_cells import MARKS, marked, ours, papers, value
from sim.paper.verdicts.verdict_table import JudgedClaim, judged, titles_of, write_rows

NAME = "paper_vs_ours"
FILES = (f"{NAME}.csv", f"{NAME}.md")
BY_CONSTRUCTION = "∎"
"""Marks a verdict whose value is given (`Claim.given`)."""
_WITHOUT_DATA = "Figures 1a, 2, 5, 6 and 7 are diagrams without data, so they have no row."


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The beginning of a figure's section in the document."""

    about: str
    """Content and settings of the figure."""
    picture: str | None = None
    """Path of the picture, relative to the document."""


def write_verdicts(
    out: Path,
    figures: Sequence[PaperFigure],
    tables: Tables,
    *,
    pictures: Mapping[str, str],
    notes: Sequence[str],
    full_twins: bool = False,
) -> list[JudgedClaim]:
    """Judge the paper's statements about these figures and in general, and write both files into a folder.

    `tables` and `pictures` (paths relative to the folder) are by the figure's key. `notes` are paragraphs that a reader
    needs to know about the routing. `full_twins` is as in `judged`.
    """
    claims = [claim for figure in figures for claim in figure.claims()]
    sections = {key: Section(about=about) for key, about in ABOUT.items()}
    for figure in figures:
        about = f"{figure.title.removesuffix('.')}. {figure.settings}"
        sections[figure.key] = Section(about=about, picture=pictures.get(figure.key))
    return write_claims(
        out, [*claims, *general_claims(claims)], tables, sections=sections, notes=notes, full_twins=full_twins
    )


def write_claims(
    out: Path,
    claims: Sequence[Claim],
    tables: Tables,
    *,
    sections: Mapping[str, Section],
    notes: Sequence[str],
    full_twins: bool = False,
) -> list[JudgedClaim]:
    """Like `write_verdicts`, with given claims and sections (by `Claim.figure`)."""
    rows = judged(claims, tables, full_twins=full_twins)
    write_rows(out / FILES[0], rows)
    with replacing(out / FILES[1], "the verdicts") as partial:
        partial.write_text(document(rows, sections=sections, notes=notes), encoding="utf-8")
    return rows


def verdict_counts(rows: Sequence[JudgedClaim]) -> str:
    """The number of statements per verdict, as a text table."""
    of = [[row.verdict for row in rows if row.footing in (footing.name, BOTH)] for footing in FOOTINGS]
    table = [[marked(verdict), *(found.count(verdict) for found in of)] for verdict in VERDICTS]
    if any(row.claim.given for row in rows):
        given = [
            sum(row.verdict == REPRODUCED and bool(row.claim.given) for row in rows if row.footing in (each.name, BOTH))
            for each in FOOTINGS
        ]
        table.insert(1, ["of these by construction", *given])
    return text_table(table, [f"{len(_first_of_each(rows))} statements", *(footing.title for footing in FOOTINGS)])


def document(rows: Sequence[JudgedClaim], *, sections: Mapping[str, Section], notes: Sequence[str]) -> str:
    """The whole text in Markdown."""
    parts = ["# The paper's statements and ours", *_opening(rows, notes), "## Verdicts", *_summary(rows)]
    parts += ["## Rules", "\n".join(item(f"- {rule}") for rule in rules_in_words())]
    for key in _keys(rows):
        own = [row for row in rows if row.claim.figure == key]
        parts += [f"## {_heading(key)}", *_section(own, sections.get(key))]
    return "\n\n".join(parts) + "\n"


def _opening(rows: Sequence[JudgedClaim], notes: Sequence[str]) -> Iterator[str]:
    yield from (paragraph(f"**{note}**") for note in notes)
    claims = len({row.claim.key for row in rows})
    yield paragraph(
        f"{claims} statements of the paper's text, numbers and orders, each beside the simulator's result. This file "
        f"and [{FILES[0]}]({FILES[0]}), which has every value of every trace, are written by `finemoe sim paper`: do "
        f"not edit them. {_WITHOUT_DATA}"
    )
    yield "\n".join(
        item(line)
        for line in (
            "- *even* footing: experts that a layer waits for come over all links at once. An expert counts as a hit "
            "if it is on its GPU when the router decides.",
            "- *released* footing: experts that a layer waits for come one after the other, and an expert whose copy "
            "is in flight counts as a hit. The authors' released demo loads demanded experts one after the other, and "
            "two of its three counters count copies in flight as hits. Loading prefetches that a layer waits for one "
            "after the other is our extension; it slows the baselines that wait for their prefetches.",
        )
    )


def _summary(rows: Sequence[JudgedClaim]) -> Iterator[str]:
    yield paragraph(
        f"The number of statements with each verdict: {', '.join(map(marked, VERDICTS))}. In the tables below, ours is "
        "a mean over traces, followed by the number of traces in which the sign, the limits or the order hold."
    )
    marks = " ".join(MARKS.values())
    headers = ["", "statements", *(f"{footing.name}: {marks}" for footing in FOOTINGS)]
    table = []
    for key in _keys(rows):
        own = [row for row in rows if row.claim.figure == key]
        table.append([f"[{_heading(key)}](#{_anchor(key)})", *_counts(own)])
    table.append(["**all**", *_counts(rows)])
    if given := [row for row in rows if row.claim.given]:
        table.append(["**of these by construction**", *_counts(given)])
    yield markdown_table(table, headers)
    if given:
        yield paragraph(
            f"*By construction* ({BY_CONSTRUCTION}): our value follows from a model's shape or published configuration "
            "alone. No run can change such a verdict, so it is no evidence for the simulator."
        )
    if unexplained := [row for row in rows if row.unexplained]:
        names = _listed(unexplained, lambda row: f"`{row.claim.key}`")
        yield paragraph(f"{len(unexplained)} of these verdicts have no reason yet: {names}.")
    if decided := _decided_by_footing(rows):
        yield "Verdicts that depend on the footing:"
        headers = ["statement", *(footing.name for footing in FOOTINGS)]
        yield markdown_table(decided, headers, texts=len(headers))
    if changed := _decided_by_form(rows):
        yield "Verdicts that change with the other form of a baseline:"
        headers = ["statement", "footing", "as above", "other form", "with it"]
        yield markdown_table(changed, headers, texts=len(headers))


def _counts(rows: Sequence[JudgedClaim]) -> list[str]:
    cells = [str(len({row.claim.key for row in rows}))]
    for footing in FOOTINGS:
        found = [row.verdict for row in rows if row.footing in (footing.name, BOTH)]
        cells.append(" / ".join(str(found.count(verdict)) for verdict in VERDICTS))
    return cells


def _decided_by_footing(rows: Sequence[JudgedClaim]) -> list[list[str]]:
    found: dict[str, dict[str, JudgedClaim]] = {}
    for row in rows:
        found.setdefault(row.claim.key, {})[row.footing] = row
    return [
        [f"`{key}`", *(_cell(row.claim, row.judgement) for row in by.values())]
        for key, by in found.items()
        if len({row.verdict for row in by.values()} - {NOT_JUDGED}) > 1
    ]


def _decided_by_form(rows: Sequence[JudgedClaim]) -> list[list[str]]:
    return [
        [f"`{row.claim.key}`", row.footing, _cell(row.claim, row.judgement), form.title, _cell(row.claim, judgement)]
        for row in rows
        for form, judgement in row.other_forms
        if judgement.verdict != row.verdict
    ]


def _cell(claim: Claim, judgement: Judgement) -> str:
    return f"{marked(judgement.verdict)}: {ours(claim, judgement)}"


def _marked(row: JudgedClaim) -> str:
    """The verdict, marked if it holds by construction."""
    return f"{marked(row.verdict)} {BY_CONSTRUCTION}" if row.claim.given else marked(row.verdict)


def _values(row: JudgedClaim, traces: Sequence[str]) -> list[str]:
    return [value(row.claim, row.values.get(trace, math.nan)) for trace in traces]


def _section(rows: Sequence[JudgedClaim], section: Section | None) -> Iterator[str]:
    if section:
        yield paragraph(section.about)
        if section.picture:
            yield f"![{_heading(rows[0].claim.figure)}]({section.picture})"
    numbers = {row.claim.key: place for place, row in enumerate(_first_of_each(rows), 1)}
    footings = [BOTH] if all(row.footing == BOTH for row in rows) else [footing.name for footing in FOOTINGS]
    headers = ["", "the paper says", "paper"]
    headers += ["ours", "verdict"] if footings == [BOTH] else [cell for name in footings for cell in (name, "verdict")]
    table = []
    for first in _first_of_each(rows):
        cells = [str(numbers[first.claim.key]), first.claim.says, papers(first.claim)]
        for footing in footings:
            row = next(row for row in rows if row.claim is first.claim and row.footing in (footing, BOTH))
            cells += [ours(row.claim, row.judgement), _marked(row)]
        table.append(cells)
    yield markdown_table(table, headers, texts=len(headers))
    notes = list(_texts(rows, numbers, lambda row: f"{BY_CONSTRUCTION} {row.claim.given}" if row.claim.given else ""))
    if notes := [*notes, *_texts(rows, numbers, lambda row: row.reason)]:
        yield "\n".join(map(item, notes))
    if traces := titles_of(rows):
        body = markdown_table(
            [
                [str(numbers[row.claim.key]), f"`{row.claim.key}`", row.footing, *_values(row, traces)]
                for row in rows
                if row.values
            ],
            ["", "claim", "footing", *traces],
            texts=3,
        )
        details = "\n".join(map(item, _texts(rows, numbers, lambda row: row.detail)))
        parts = filter(None, ["<details><summary>On each trace</summary>", body, details, "</details>"])
        yield "\n\n".join(parts)


def _texts(rows: Sequence[JudgedClaim], numbers: Mapping[str, int], of: Callable[[JudgedClaim], str]) -> Iterator[str]:
    """Each text once, after the numbers of its statements."""
    rows_by_text: dict[str, list[JudgedClaim]] = {}
    for row in rows:
        if text := of(row):
            rows_by_text.setdefault(text, []).append(row)
    for text, those in rows_by_text.items():
        yield f"- {_listed(those, lambda row: str(numbers[row.claim.key]))}: {text}."


def _listed(rows: Sequence[JudgedClaim], name: Callable[[JudgedClaim], str]) -> str:
    """The statements by name: first those on all footings, then those on one, followed by its name."""
    footings: dict[str, list[str]] = {}
    for row in rows:
        footings.setdefault(name(row), []).append(row.footing)
    groups: dict[str, list[str]] = {"": [], **{footing.name: [] for footing in FOOTINGS}}
    for each, of in footings.items():
        groups[of[0] if len(of) == 1 and of[0] != BOTH else ""].append(each)
    return "; ".join(
        f"{', '.join(names)}{f' ({footing})' if footing else ''}" for footing, names in groups.items() if names
    )


def _first_of_each(rows: Sequence[JudgedClaim]) -> list[JudgedClaim]:
    firsts: dict[str, JudgedClaim] = {}
    for row in rows:
        firsts.setdefault(row.claim.key, row)
    return list(firsts.values())


def _keys(rows: Sequence[JudgedClaim]) -> list[str]:
    """The figures in the order of the document: headline, tables, figures by number, the rest."""

    def place(key: str) -> tuple[int, int, str]:
        if number := re.match(r"\d+", key):
            return 2, int(number[0]), key
        return (0 if key == "headline" else 1 if key.startswith("table") else 3), 0, key

    return sorted({row.claim.figure for row in rows}, key=place)


def _heading(key: str) -> str:
    return figure_name(key).capitalize()


def _anchor(key: str) -> str:
    return _heading(key).lower().replace(" ", "-")

"""Run the figures of a study and write their pictures and tables.

OUT/figures/figure_10.png, .pdf      the picture
OUT/figures/figure_10.parquet, .csv  the table behind it, tidy
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

import pandas as pd

from common.errors import UserError
from common.figures import GREY, save
from common.files import replacing
from common.parquet import write_frame
from common.progress import bar
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.footings import FOOTINGS
from sim.paper.study import Study
from sim.paper.study_traces import STAND_INS, TWIN, PaperTrace
from traces.format.provenance import caution, label, routing

PICTURES = (".png", ".pdf")
SUFFIXES = (*PICTURES, ".parquet", ".csv")
_PRINT = 5.5  # points of the line below a picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The tables of a study's figures, and the runs that are missing."""

    tables: Mapping[str, pd.DataFrame]
    """By the figure's key."""
    not_run: pd.DataFrame
    """Refused and failed cases, with labels and reasons."""


def file_of(key: str, suffix: str) -> str:
    """The path of a figure's file, relative to the folder of the reproduction."""
    name = key.replace("-", "_") if key[0].isalpha() else f"figure_{key}"
    return f"figures/{name}{suffix}"


def outputs(figures: Sequence[PaperFigure], out: Path) -> list[Path]:
    """Every file that `write_figures` writes."""
    return [out / file_of(each.key, suffix) for each in figures for suffix in SUFFIXES]


def show(figures: Sequence[PaperFigure], study: Study) -> Shown:
    """Simulate the runs that the store lacks, as one sweep for all figures, and make the tables."""
    cases = {figure.key: list(figure.cases(study)) for figure in figures}
    runs = study.run([case for each in cases.values() for case in each])
    _check_traces(study, runs)
    tables, first = {}, 0
    with bar("tables", len(figures), unit="figure") as done:
        for figure in figures:
            last = first + len(cases[figure.key])
            labels = list(dict.fromkeys(name for case in cases[figure.key] for name in case.labels))
            own = runs.iloc[first:last].reset_index(drop=True)
            tables[figure.key] = figure.table(study, own[[*labels, *(n for n in own.columns if n not in labels)]])
            first = last
            done(1)
    return Shown(tables=tables, not_run=runs[runs["status"] != "done"])


def _check_traces(study: Study, runs: pd.DataFrame) -> None:
    """Raise a `UserError` if no run of a trace finished, before earlier figures are replaced."""
    for trace in study.traces:
        own = runs[(runs["model"] == trace.model) & (runs["prompts"] == trace.prompts)] if len(runs) else runs
        if len(own) and not (own["status"] == "done").any():
            raise UserError(f"{trace.path}: none of its {len(own)} runs finished: {own['reason'].iloc[0]}")


def write_figures(figures: Sequence[PaperFigure], study: Study, tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    """Write the pictures and tables of figures into a folder, replacing earlier ones."""
    facts = study_facts(study)
    with bar("pictures", len(figures), unit="figure") as done:
        for figure in figures:
            table, files = tables[figure.key], {suffix: out / file_of(figure.key, suffix) for suffix in SUFFIXES}
            meta = {"figure": figure.key, "title": figure.title, "settings": figure.settings, **facts}
            with replacing(files[".parquet"], "the table") as partial:
                write_frame(partial, table, meta)
            with replacing(files[".csv"], "the table") as partial:
                table.to_csv(partial, index=False, lineterminator="\n")
            drawn = figure.draw(table)
            width = drawn.get_size_inches()[0]
            text = f"{figure.settings} {facts['provenance']}{_requests(study, figure)}"
            caption = fill(text, int(width * 72 / _PRINT * 1.75))
            drawn.supxlabel(caption, fontsize=_PRINT, color=GREY, x=0.01, ha="left")
            for suffix in PICTURES:
                save(drawn, files[suffix], dpi=200)
            done(1)


def study_facts(study: Study) -> dict[str, Any]:
    """What a reader must know about a study, as plain data."""
    return {
        "simulated": True,
        "tier": asdict(study.tier),
        "provenance": provenance_line(study),
        "traces": [_trace_facts(study, each) for each in study.traces],
        "footings": [asdict(footing) for footing in FOOTINGS],
    }


def _trace_facts(study: Study, trace: PaperTrace) -> dict[str, Any]:
    opened = study.opened(trace)
    facts = {"model": trace.model, "prompts": trace.prompts, "sizes": trace.sizes, "sha256": opened.digest}
    return facts | {"kind": opened.meta.kind, "warning": study.warning(trace)}


def provenance_line(study: Study) -> str:
    """In a few sentences, where the routing comes from and which traces differ from natural text."""
    cautions = [study.tier.caution] if study.tier.caution else []
    return " ".join(["Simulated, not measured.", *cautions, *_routing(study), *_prompts(study), *_warnings(study)])


def _routing(study: Study) -> Iterator[str]:
    recorded = sorted({study.opened(each).meta.model for each in study.traces})
    twins = any(name.endswith(TWIN) for name in recorded)
    yield f"Routing: {', '.join(recorded)}{', small models with the topology of the originals' if twins else ''}."


def _prompts(study: Study) -> Iterator[str]:
    sets = dict.fromkeys(each.prompts for each in study.traces)
    described = [f"{each.name} stands in for {each.stands_for}" for each in STAND_INS if each.name in sets]
    described += [name for name in sets if name not in {each.name for each in STAND_INS}]
    yield f"Prompts: {', '.join(described)}."


def _requests(study: Study, figure: PaperFigure) -> str:
    """The largest number of requests in a run of the figure, as a sentence."""
    most = max((case.scenario.requests or 0 for case in figure.cases(study)), default=0)
    return f" At most {most} request{'s' if most > 1 else ''} per run." if most else ""


def _warnings(study: Study) -> Iterator[str]:
    """Warnings about traces that were not recorded or that repeat themselves."""
    for each in study.traces:
        meta, unlike = study.opened(each).meta, study.warning(each)
        if label(meta.kind, unlike) != meta.kind:
            yield f"{each.title}: {routing(meta.kind, meta.model, unlike)}."
        yield from (f"{line}." for line in caution(unlike, name=each.title, width=sys.maxsize))

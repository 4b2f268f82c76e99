"""A reproduction from routing to report, as `finemoe sim paper` runs it."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, shorten

from common.errors import FieldError
from common.files import files_together
from common.tables import text_table
from sim.paper.catalogue_of_figures import FIGURES
from sim.paper.figures.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace, are_all_twins, record_missing, twins, users
from sim.paper.testbed.implied_testbed import ImpliedTestbed
from sim.paper.testbed.testbed_report import implied_testbed_document
from sim.paper.tiers import FULL, KICK_THE_TIRES, TIERS, Tier, TierName
from sim.paper.verdicts.paper_vs_ours import FILES, verdict_counts, write_verdicts
from sim.paper.verdicts.verdict_cells import marked, ours, papers
from sim.paper.verdicts.verdict_table import JudgedClaim, judged
from sim.paper.written_paper import Shown, file_of, outputs, provenance_line, show, write_figures
from sim.sweeps.workers import Workers

TWINS = "twins"
REPORT = "implied_testbed.md"
WIDTH = 100  # columns of a terminal
SAYS = 30  # of these for what the paper states


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a reproduction."""

    text: str
    failed: bool
    """Whether any run failed."""


def prepared_study(tier: TierName, routing: Sequence[str], *, out: Path, store: Path, workers: Workers) -> Study:
    """A study of the user's traces, or of the twins, whose missing traces are recorded into `OUT/routing`."""
    size = next(each for each in TIERS if each.name == tier)
    return Study(traces=_traces(routing, size, out, workers), tier=size, store=store, workers=workers)


def reproduce(study: Study, figures: Sequence[PaperFigure], out: Path) -> Report:
    """Simulate the runs that the store lacks and write the figures; with all figures also the verdict files."""
    shown = show(figures, study)
    notes, full_twins = [provenance_line(study)], study.tier == FULL and are_all_twins(study.traces)
    documents = _documents(figures)
    with files_together(out, "the figures") as partial:
        write_figures(figures, study, shown.tables, partial)
        if documents.issuperset(FILES):
            pictures = {each.key: file_of(each.key, ".png") for each in figures}
            rows = write_verdicts(partial, figures, shown.tables, pictures=pictures, notes=notes, full_twins=full_twins)
        else:
            rows = judged([claim for each in figures for claim in each.claims()], shown.tables)
        if REPORT in documents:
            report = implied_testbed_document(shown.tables[ImpliedTestbed.key], *notes)
            (partial / REPORT).write_text(report, encoding="utf-8")
    verdicts = "" if study.tier == KICK_THE_TIRES else _verdicts(rows, documents)  # they would mean nothing
    ended = [_files(figures, out, documents), verdicts, *_not_run(shown)]
    parts = [fill(note, WIDTH) for note in notes] + ended
    failed = bool((shown.not_run["status"] == "failed").any())
    return Report(text="\n\n".join(filter(None, parts)), failed=failed)


def written(figures: Sequence[PaperFigure], out: Path) -> list[Path]:
    """Every file that `reproduce` writes."""
    return [*outputs(figures, out), *(out / name for name in sorted(_documents(figures)))]


def _documents(figures: Sequence[PaperFigure]) -> set[str]:
    """Files beside the figures: the verdicts if all figures are made, and the report on the implied testbed."""
    report = {REPORT for each in figures if each.key == ImpliedTestbed.key}
    return report | set(FILES if len(figures) == len(FIGURES) else ())


def _traces(routing: Sequence[str], tier: Tier, out: Path, workers: Workers) -> Sequence[PaperTrace]:
    if TWINS in routing and len(routing) > 1:
        raise FieldError("routing", f"must be either {TWINS} or traces, not both: {' '.join(routing)}")
    if routing and routing != [TWINS]:
        return users([Path(each) for each in routing])
    found = twins(tier, out / "routing")
    record_missing(found, tier, workers)
    return found


def _files(figures: Sequence[PaperFigure], out: Path, documents: Collection[str]) -> str:
    rows = [[each.key, shorten(each.title, 60), Path(file_of(each.key, ".png")).name] for each in figures]
    beside = [str(out / name) for name in sorted(documents)]
    table = text_table(rows, ["figure", "shows", "picture"], texts=3)
    return "\n".join([table, "", f"pictures and tables: {out / 'figures'}", *beside])


def _verdicts(rows: Sequence[JudgedClaim], documents: Collection[str]) -> str:
    """The number of statements per verdict, or the verdicts themselves if no file is written for them."""
    if not rows or FILES[0] in documents:
        return verdict_counts(rows) if rows else ""
    cells = [
        [
            f"{row.claim.key}\n{fill(shorten(row.claim.says, 2 * SAYS - 10, placeholder=' …'), SAYS)}",
            *(row.footing, papers(row.claim), ours(row.claim, row.judgement), marked(row.verdict)),
        ]
        for row in rows
    ]
    return text_table(cells, ["statement", "footing", "paper", "ours", "verdict"], texts=5)


def _not_run(shown: Shown) -> Sequence[str]:
    reasons = Counter(f"{row['status']}: {row['reason']}" for row in shown.not_run.to_dict("records"))
    return [f"{count} runs {why}" for why, count in reasons.items()]

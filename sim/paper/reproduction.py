"""A reproduction from its routing to its report: what `python -m sim paper` does."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import FieldError
from common.tables import text_table
from sim.paper.paper_figure import PaperFigure
from sim.paper.study import Study
from sim.paper.study_traces import PaperTrace, record_missing, twins, users
from sim.paper.tiers import TIERS, Tier, TierName
from sim.paper.written_paper import Shown, file_of, provenance_line, show, write_figures
from sim.sweeps.workers import Workers

TWINS = "twins"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a reproduction says when it has ended."""

    text: str
    failed: bool
    """Whether a run failed."""


def prepared_study(tier: TierName, routing: Sequence[str], *, out: Path, store: Path, workers: Workers) -> Study:
    """A study of the twins, whose missing traces are recorded into `OUT/routing`, or of traces of the user's own."""
    size = next(each for each in TIERS if each.name == tier)
    return Study(traces=_traces(routing, size, out, workers), tier=size, store=store, workers=workers)


def reproduce(study: Study, figures: Sequence[PaperFigure], out: Path) -> Report:
    """Run what the store lacks, and write the figures."""
    shown = show(figures, study)
    write_figures(figures, study, shown.tables, out)
    return Report(text=_text(study, figures, shown, out), failed=bool((shown.not_run["status"] == "failed").any()))


def _traces(routing: Sequence[str], tier: Tier, out: Path, workers: Workers) -> Sequence[PaperTrace]:
    if TWINS in routing and len(routing) > 1:
        raise FieldError("routing", f"is either {TWINS} or traces, value {' '.join(routing)}")
    if routing and routing != [TWINS]:
        return users([Path(each) for each in routing])
    found = twins(tier, out / "routing")
    record_missing(found, tier, workers)
    return found


def _text(study: Study, figures: Sequence[PaperFigure], shown: Shown, out: Path) -> str:
    rows = [[each.key, each.title, str(out / file_of(each.key, ".png"))] for each in figures]
    table = text_table(rows, ["figure", "shows", "picture"], texts=3)
    return "\n\n".join([provenance_line(study), table, *_not_run(shown)])


def _not_run(shown: Shown) -> Sequence[str]:
    said = Counter(f"{row['status']}: {row['reason']}" for row in shown.not_run.to_dict("records"))
    return [f"{count} runs {why}" for why, count in said.items()]

"""Labels: what a reader must know before believing the figures of a run, wherever these are shown."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sim.results.summary import Summary


class Label(NamedTuple):
    """A label of a run."""

    text: str
    """Two or three words, for pictures and lists."""
    mark: str
    """One sign, for the cell of a table."""
    note: str
    """What it means, below the table."""


DOES_NOT_FIT = Label(
    text="does not fit",
    mark="*",
    note="experts, dense weights and KV cache take more memory than the GPUs have, so its times are only a bound",
)


def labels(summary: Summary) -> list[str]:
    """The texts of all labels that a run has."""
    return [label.text for label in _labels(summary)]


def marked(name: str, *runs: Summary) -> str:
    """What a table calls runs of one name: that, and the mark of each label that any of them has."""
    marks = dict.fromkeys(label.mark for run in runs for label in _labels(run))
    return " ".join([name, *marks])


def footnotes(runs: Iterable[tuple[str, Summary]]) -> Iterator[str]:
    """A line for each label that any of the runs has, with the names of those that have it."""
    named: dict[Label, dict[str, None]] = {}
    for name, run in runs:
        for label in _labels(run):
            named.setdefault(label, {})[name] = None
    for label, names in named.items():
        yield f"{label.mark} {', '.join(names)}: {label.text}; {label.note}"


def _labels(summary: Summary) -> Iterator[Label]:
    if summary["fits"] is False:
        yield DOES_NOT_FIT

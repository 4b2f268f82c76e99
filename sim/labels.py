"""Labels: warnings about a run's figures, shown wherever these figures are."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Facts = Mapping[str, Any]  # about a run, including `fits` and `prediction_charged`; None if unknown


class Label(NamedTuple):
    """A label of a run."""

    text: str
    """A few words, for pictures and lists."""
    mark: str
    """One character, for the cell of a table."""
    note: str
    """The explanation below the table."""


DOES_NOT_FIT = Label(
    text="does not fit",
    mark="*",
    note="experts, dense weights and KV cache take more memory than the GPUs have, so these times are only a bound",
)

NOT_CHARGED = Label(
    text="prediction time not charged",
    mark="†",
    note="plans are made without any search or update, as if predictions took no time",
)

DOES_NOT_PAY = Label(
    text="prefetching does not pay here",
    mark="§",
    note="a token takes longer than with the same cache and copies on demand only (TTFT may still be shorter)",
)


def labels(summary: Facts) -> list[str]:
    """The texts of a run's labels."""
    return [label.text for label in _labels(summary)]


def marked(name: str, *runs: Facts) -> str:
    """The name of runs in a table, with the mark of each label that any of them has."""
    marks = dict.fromkeys(label.mark for run in runs for label in _labels(run))
    return " ".join([name, *marks])


def footnotes(runs: Iterable[tuple[str, Facts]]) -> Iterator[str]:
    """A line for each label that any of the runs has, with the names of these runs."""
    named: dict[Label, dict[str, None]] = {}
    for name, run in runs:
        for label in _labels(run):
            named.setdefault(label, {})[name] = None
    for label, names in named.items():
        yield f"{label.mark} {', '.join(names)}: {label.text}; {label.note}"


def _labels(summary: Facts) -> Iterator[Label]:
    if summary["fits"] is False:
        yield DOES_NOT_FIT
    if summary["prediction_charged"] is False:
        yield NOT_CHARGED
    if summary.get("prefetching_pays") is False:
        yield DOES_NOT_PAY

"""Footnotes of a comparison: why a trace or a machine shows no more, and what policies say of their runs."""

from collections.abc import Iterator, Sequence

from sim.ranking.compared import Compared
from sim.ranking.comparison_table import ComparisonTable
from sim.ranking.order_tables import gigabytes


class Footnotes:
    """Numbered texts, and to which trace each belongs."""

    def __init__(self, table: ComparisonTable, compared: Compared) -> None:
        self._compared = compared
        self._numbers: dict[str, int] = {}
        self._of: dict[str, list[int]] = {trace: [] for trace in table.traces}
        missing: dict[tuple[str, str], dict[str, list[str]]] = {}
        systems_by_note: dict[tuple[str, str], dict[str, None]] = {}
        for row in table.rows:
            trace, system = row["trace"], row["system"]
            if row["status"] != "done":
                where = f"{gigabytes(row['cache_gb'])} GB on {row['machine']}" if row["status"] != "lacking" else ""
                missing.setdefault((trace, row["reason"]), {}).setdefault(system, []).append(where)
            elif row["note"]:
                systems_by_note.setdefault((trace, row["note"]), {})[system] = None
        for (trace, reason), systems in missing.items():
            places = list(dict.fromkeys(place for each in systems.values() for place in each if place))
            where = f", {'; '.join(places)}" if places else ""
            self._add(trace, f"{trace}{where}: without {self._named(list(systems))}: {reason}")
        for (trace, note), those in systems_by_note.items():
            self._add(trace, f"{trace}, {self._named(list(those))}: {note}")
        for trace, facts in table.inputs["traces"].items():
            if not facts["prefill"]:
                self._add(trace, f"{trace}: recorded without prefills, so there is no TTFT")

    def marked(self, trace: str) -> str:
        """The name of a trace with the numbers of its footnotes."""
        numbers = ",".join(map(str, self._of[trace]))
        return f"{trace} <sup>{numbers}</sup>" if numbers else trace

    def texts(self) -> Iterator[str]:
        """All footnotes with their numbers."""
        return (f"{number}. {text}." for text, number in self._numbers.items())

    def _add(self, trace: str, text: str) -> None:
        self._of[trace].append(self._numbers.setdefault(text, len(self._numbers) + 1))

    def _named(self, systems: Sequence[str]) -> str:
        """The names of a footnote's systems; variants of the subject are counted, not named."""
        ablations = {each.name for each in self._compared.of_role("ablation")}
        if set(systems) == {each.name for each in self._compared.systems}:
            return "any system"
        named = [name for name in systems if name not in ablations]
        parts = len(systems) - len(named)
        if parts and named:
            count = "all" if parts == len(ablations) else f"{parts} of the {len(ablations)}"
            return f"{', '.join(named)} and {count} variants of {self._compared.subject}"
        if parts:
            named = [f"{self._compared.subject} {name}" for name in systems]
        return ", ".join(named)

"""The files of a comparison.

NAME.md           the document
NAME/runs.csv     a row per combination; NAME/inputs.json: traces and machines
NAME/flips.csv    a row per flip
NAME/comparison.png
"""

import csv
from pathlib import Path

from common.files import files_together
from sim.ranking.compared import Compared
from sim.ranking.comparison_document import document
from sim.ranking.comparison_table import ComparisonTable
from sim.ranking.order_figure import draw_orders
from sim.ranking.order_tables import OrderTables
from sim.ranking.orders import Flip
from sim.sweeps.run_table import INPUTS, RUNS

NAME = "comparison"
FLIPS, PICTURE = "flips.csv", "comparison.png"
_COLUMNS = (
    *("metric", "trace", "cache_gb", "base", "machine", "faster_on_base", "faster_there"),
    *("share_on_base", "share_there"),
)


def outputs(out: Path) -> list[Path]:
    """Every file that `write_comparison` writes into a folder."""
    return [out / f"{NAME}.md", *(out / NAME / name for name in (RUNS, INPUTS, FLIPS, PICTURE))]


def write_comparison(table: ComparisonTable, compared: Compared, out: Path) -> OrderTables:
    """Write all files into a folder, replacing older ones, and return the orders that they show."""
    with files_together(out, "the comparison") as partial:
        beside = partial / NAME
        beside.mkdir()
        table.write(beside)
        table = ComparisonTable.read(beside)  # so the document says what the files say, to the last digit
        orders = OrderTables(table, compared)
        with (beside / FLIPS).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(_row(flip, compared.base) for found in orders.flips.values() for flip in found)
        draw_orders(table, compared, beside / PICTURE)
        (partial / f"{NAME}.md").write_text(document(orders, beside=NAME), encoding="utf-8")
    return orders


def _row(flip: Flip, base: str) -> tuple[object, ...]:
    trace, gb, machine, metric = flip.setting
    return metric, trace, gb, base, machine, flip.faster_on_base, flip.faster_there, flip.base, flip.there

"""Write the files of the anchors.

anchors.md            the document
anchors/runs.csv      a row per run; anchors/inputs.json: routing and machines
anchors/anchors.png   the picture
"""

from collections.abc import Sequence
from pathlib import Path

from common.files import files_together
from sim.anchors.anchor import Anchor
from sim.anchors.anchor_document import document
from sim.anchors.anchor_figure import draw_anchors
from sim.anchors.anchor_table import AnchorTable
from sim.sweeps.run_table import INPUTS, RUNS

NAME = "anchors"
PICTURE = "anchors.png"


def outputs(out: Path) -> list[Path]:
    """Every file that `write_anchors` writes into a folder."""
    return [out / f"{NAME}.md", *(out / NAME / name for name in (RUNS, INPUTS, PICTURE))]


def write_anchors(table: AnchorTable, anchors: Sequence[Anchor], out: Path) -> AnchorTable:
    """Write all files into a folder, replacing earlier ones, and return the table as read from them."""
    with files_together(out, "the anchors") as partial:
        beside = partial / NAME
        beside.mkdir()
        table.write(beside)
        table = AnchorTable.read(beside)  # so that the document agrees with the files to the last digit
        draw_anchors(table, anchors, beside / PICTURE)
        (partial / f"{NAME}.md").write_text(document(table, anchors, beside=NAME), encoding="utf-8")
    return table

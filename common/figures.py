"""The style of all figures: one palette, axes without a frame, files that appear whole or not at all."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError, either
from common.files import replacing

PICTURES = (".png", ".svg", ".pdf")
_MAKER = "FineMoE Lab"  # embedded in every picture, to recognise it as ours

# Colours by meaning; distinguishable with any kind of colour vision.
HIT = COMPUTES = BLUE = "#2a6f97"
LATE = PREFETCHED = ORANGE = "#e9a13b"
MISS = DEMANDED = RED = "#c8553d"
WAITS = "#c3d9e6"
DEMANDED_EDGE, PREFETCHED_EDGE = "#7a2f20", "#96631a"  # edges of bars that may be too short to show their colour
GREY = "#8a8a8a"
WHITE = "#ffffff"

CYAN, NAVY, GREEN, MAROON = "#4cc3e6", "#1d1464", "#a3cf86", "#5a1a2a"

# For lines without a meaning of their own, in this order.
SERIES = (BLUE, RED, ORANGE, CYAN, NAVY, GREEN, MAROON, GREY)

_PALE_MAROON = "#dda3b5"


def check_picture(path: Path) -> None:
    """A `UserError` unless the name of a picture ends in a format that can be drawn."""
    if path.suffix not in PICTURES:
        raise UserError(f"{path}: the name must end in {either(PICTURES)}")


def check_own_picture(path: Path) -> None:
    """A `UserError` unless the picture was written by `save`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror or error}") from error
    if _MAKER.encode() not in content:
        raise UserError("no command of this project has drawn it")


def mixed(colour: str, other: str, share: float) -> str:
    """Mix a share of another colour into `#rrggbb`: 0 gives the first, 1 the other."""
    pairs = ((int(colour[at : at + 2], 16), int(other[at : at + 2], 16)) for at in (1, 3, 5))
    return "#" + "".join(f"{round(one + (two - one) * share):02x}" for one, two in pairs)


def shades(count: int) -> list[str]:
    """`count` colours from dark to light maroon, distinguished by lightness, for lines that are not systems."""
    return [mixed(MAROON, _PALE_MAROON, place / max(count - 1, 1)) for place in range(count)]


def figure(width: float, height: float) -> Any:
    """An empty matplotlib figure, sizes in inches, drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    empty = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(empty)
    return empty


def panels(drawn: Any, rows: int = 1, columns: int = 1, **shared: Any) -> Any:
    """The axes of a figure `[rows, columns]`, without a frame at the top and on the right."""
    axes = drawn.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return axes


def legend(axis: Any, **where: Any) -> None:
    """A legend in small print, without a frame."""
    axis.legend(frameon=False, fontsize=8, **where)


def legend_above(drawn: Any, handles: Iterable[Any], names: Iterable[str], *, columns: int) -> None:
    """One legend for all panels of a figure, above them, in small print and without a frame."""
    drawn.legend(list(handles), list(names), frameon=False, fontsize=7, ncols=columns, loc="outside upper center")


def save(drawn: Any, path: Path, *, dpi: int = 150) -> None:
    """Write a figure; the file appears whole or not at all, and equal figures give equal bytes."""
    from matplotlib import rc_context

    metadata: dict[str, Any] = {
        ".png": {"Software": _MAKER},
        ".svg": {"Creator": _MAKER, "Date": None},
        ".pdf": {"Creator": _MAKER, "CreationDate": None},
    }
    with replacing(path, "the picture") as partial, rc_context({"svg.hashsalt": "names within an SVG"}):
        drawn.savefig(partial, dpi=dpi, metadata=metadata[path.suffix])

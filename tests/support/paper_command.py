"""`finemoe sim paper` on tiny traces, in seconds."""

from pathlib import Path

from tests.support.trace_helpers import small_shape, small_trace

SHAPE = small_shape(layers=4, experts=8)


def tiny_trace(folder: Path) -> Path:
    """Drawn routing with everything that a figure asks for."""
    return small_trace(folder / "tiny.trace", 8, shape=SHAPE, lookahead=(1, 3))


def words(trace: Path, folder: Path, *figures: str) -> list[str]:
    """The words of a command that makes some figures of a trace, with store and results in a folder."""
    chosen = [word for figure in figures for word in ("--figure", figure)]
    places = ["--store", str(folder / "store"), "--out", str(folder / "out")]
    return ["paper", *chosen, "--kick-the-tires", "--routing", str(trace), "--jobs", "1", *places]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file that the command has written into its folder, by name."""
    places = (path for path in (folder / "out").rglob("*") if path.is_file())
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in places}

"""One look of all pictures, drawn without a screen, to files that are whole and equal."""

import errno
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import UserError
from common.figures import GREY, HIT, LATE, MISS, PICTURES, SERIES, WAITS, check_picture, figure, legend, panels, save
from common.outputs import picture, reserved

ROOT = Path(__file__).parents[2]

# Machado et al. 2009: what linear RGB looks like without one kind of cone.
VISION = {
    "normal": np.eye(3),
    "without long": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
    "without medium": [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    "without short": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(color: str, vision: Any) -> Any:
    """CIE L*a*b* of a colour as it is seen; a distance of 2.3 is just noticed."""
    value = np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(np.array(vision) @ linear, 0, 1) / TO_XYZ.sum(axis=1)
    x, y, z = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("palette", [(HIT, LATE, MISS, WAITS, GREY), SERIES])
def test_colours_are_distinguishable_with_any_kind_of_colour_vision(vision: str, palette: tuple[str, ...]) -> None:
    seen = [lab(color, VISION[vision]) for color in palette]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 25


def a_figure() -> Any:
    drawn = figure(4, 3)
    ((left, right),) = panels(drawn, 1, 2, sharey=True)
    left.plot([1, 2, 3], color=HIT, label="hit")
    right.bar([1, 2], [3, 4], color=MISS, hatch="//")
    legend(left)
    return drawn


def test_axes_have_no_frame_at_the_top_and_on_the_right() -> None:
    for axes in a_figure().axes:
        assert [name for name, spine in axes.spines.items() if spine.get_visible()] == ["left", "bottom"]


@pytest.mark.parametrize("suffix", PICTURES)
def test_equal_figures_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save(a_figure(), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_is_known_as_ours_and_may_then_be_replaced(suffix: str, tmp_path: Path) -> None:
    path = (tmp_path / "a").with_suffix(suffix)
    drawn = a_figure()
    save(drawn, path)
    with reserved(picture(path), overwrite=True):
        pass
    drawn.savefig(path)
    said = "something else: no command of this project has drawn it$"
    with pytest.raises(UserError, match=said), reserved(picture(path), overwrite=True):
        pass


def test_a_png_does_not_say_which_version_drew_it(tmp_path: Path) -> None:
    save(a_figure(), tmp_path / "a.png")
    assert b"atplotlib" not in (tmp_path / "a.png").read_bytes()


def test_a_picture_that_the_disk_has_no_room_for_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = a_figure()

    def full(path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(drawn, "savefig", full)
    with pytest.raises(UserError, match=r"/a\.png: the picture could not be written: No space left on device$"):
        save(drawn, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.gif", "a", "a.PNG", ".png"])
def test_other_kinds_of_pictures_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"the name must end in \.png, \.svg or \.pdf$"):
        check_picture(Path(name))
    for suffix in PICTURES:
        check_picture(Path(f"a{suffix}"))


def test_importing_the_look_does_not_load_matplotlib() -> None:
    code = "import common.figures, sys; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "False\n"

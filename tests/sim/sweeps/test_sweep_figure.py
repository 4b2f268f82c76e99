"""Pictures of sweeps: what is drawn is what the table says."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FieldError, UserError
from common.figures import PICTURES
from sim.engine.time_split import PARTS
from sim.sweeps.metric_labels import metric_label
from sim.sweeps.pareto_figure import FRONTS, draw_pareto, on_front
from sim.sweeps.stall_figure import draw_stalls
from sim.sweeps.sweep import Sweep
from sim.sweeps.sweep_figure import draw_axis
from sim.sweeps.sweep_panels import styles
from tests.support.slow_cases import slow_but
from tests.support.sweep_helpers import hand_made, simulated_sweep

AXES = ("policy", "cache.share", "seed")


def rows(policies: tuple[str, ...] = ("lru", "lfu"), seeds: int = 3, **more: Any) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    return [
        {"policy": policy, "cache.share": share, "seed": seed, "tpot_s_mean": rng.random(), "hit_rate": rng.random()}
        | {"hit_or_late_rate": rng.random(), "bytes_per_token": rng.random() * 1e9}
        | {"expert_memory_bytes": int(share * 1e9)}
        | {f"decode_{part}": rng.random() for part in PARTS}
        | more
        for policy in policies
        for share in (0.25, 0.5, 0.75)
        for seed in range(seeds)
    ]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Catches figures in place of files."""
    figures: list[Any] = []
    monkeypatch.setattr("sim.sweeps.sweep_panels.save", lambda figure, path: figures.append(figure))
    return figures


def names(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def shown(figure: Any) -> list[Any]:
    return [panel for panel in figure.axes if panel.get_visible()]


def test_lines_are_means_over_seeds_and_bands_their_intervals(drawn: list[Any]) -> None:
    sweep = hand_made(rows(), *AXES)
    draw_axis(sweep, Path("a.png"))
    (panel,) = drawn[0].axes
    assert sorted(names(drawn[0])) == ["lfu", "lru"]
    for policy, line, band in zip(("lru", "lfu"), panel.get_lines(), panel.collections, strict=True):
        groups = sweep.frame[sweep.frame["policy"] == policy].groupby("cache.share")["tpot_s_mean"]
        assert line.get_xdata().tolist() == [0.25, 0.5, 0.75]
        assert line.get_ydata().tolist() == pytest.approx((groups.mean() * 1e3).tolist())
        for share, own in groups:  # of three seeds, the interval is their range
            edge = [y for x, y in band.get_paths()[0].vertices if x == share]
            assert (min(edge), max(edge)) == pytest.approx((own.min() * 1e3, own.max() * 1e3))


def test_a_duplicate_run_is_drawn_once(drawn: list[Any]) -> None:
    table = [{"cache.share": 0.5, "seed": seed, "tpot_s_mean": tpot} for seed, tpot in ((0, 0.1), (1, 0.2), (0, 0.1))]
    draw_axis(hand_made(table, "cache.share", "seed"), Path("a.png"), axis="cache.share")
    draw_pareto(hand_made([row | {"hit_rate": 0.5} for row in table], "cache.share", "seed"), Path("a.png"))
    assert drawn[0].axes[0].get_lines()[0].get_ydata().tolist() == pytest.approx([150])
    assert drawn[1].axes[0].get_lines()[0].get_ydata().tolist() == pytest.approx([150])


def test_one_seed_has_no_band(drawn: list[Any]) -> None:
    draw_axis(hand_made(rows(seeds=1), *AXES), Path("a.png"))
    (panel,) = drawn[0].axes
    assert [path for band in panel.collections for path in band.get_paths() if len(path.vertices)] == []
    assert "one seed, so without intervals" in drawn[0].get_suptitle()


def test_points_over_texts_are_not_joined_and_one_seed_has_no_bar(drawn: list[Any]) -> None:
    table = [row | {"machine": name} for name in ("a100", "h100") for row in rows(seeds=1) if row["cache.share"] == 0.5]
    draw_axis(hand_made(table, "policy", "machine"), Path("a.png"))
    (panel,) = drawn[0].axes
    assert [line.get_linestyle() for line in panel.get_lines()] == ["None", "None"]
    assert [text.get_text() for text in panel.get_xticklabels()] == ["a100", "h100"]
    assert [path for bars in panel.collections for path in bars.get_paths()] == []
    places = [line.get_xdata() for line in panel.get_lines()]
    assert (places[0] < places[1]).all()  # side by side


def test_other_axes_are_panels(drawn: list[Any]) -> None:
    table = [row | {"batch_size": size} for size in (1, 2, 4, 8) for row in rows(seeds=1)]
    draw_axis(hand_made(table, *AXES, "batch_size"), Path("a.png"))
    assert [panel.get_title() for panel in shown(drawn[0])] == [f"batch_size={size}" for size in (1, 2, 4, 8)]
    draw_axis(hand_made(table, *AXES, "batch_size"), Path("a.png"), axis="batch_size")
    assert [panel.get_title() for panel in shown(drawn[1])] == [f"cache.share={share}" for share in (0.25, 0.5, 0.75)]
    assert drawn[1].axes[0].get_xlabel() == "batch_size [requests]"


def test_over_a_setting_a_policy_is_one_line_and_those_without_it_are_levels(drawn: list[Any]) -> None:
    table = [
        {"policy": f"finemoe,prefetch_distance={distance},capacity=9+lhd", "policy.prefetch_distance": distance}
        | {"tpot_s_mean": 0.01 * distance}
        for distance in (2, 4, 6)
    ]
    table.append({"policy": "lru", "policy.prefetch_distance": None, "tpot_s_mean": 0.03})
    draw_axis(hand_made(table, "policy", "policy.prefetch_distance"), Path("a.png"), axis="policy.prefetch_distance")
    (panel,) = drawn[0].axes
    assert sorted(names(drawn[0])) == ["finemoe,capacity=9+lhd", "lru"]
    line, level = panel.get_lines()
    assert line.get_xdata().tolist() == [2, 4, 6]
    assert line.get_ydata().tolist() == pytest.approx([20, 40, 60])
    assert (level.get_linestyle(), list(level.get_xdata()), list(level.get_ydata())) == ("--", [2, 6], [30, 30])
    assert "dashed: without a policy.prefetch_distance" in drawn[0].get_suptitle()


def test_without_a_numeric_axis_policies_are_the_axis(drawn: list[Any]) -> None:
    draw_axis(hand_made([{"policy": "lru", "tpot_s_mean": 0.01}], "policy"), Path("a.png"))
    assert drawn[0].axes[0].get_xlabel() == "policy"


def test_an_axis_of_many_magnitudes_is_logarithmic(drawn: list[Any]) -> None:
    table = [{"batch_size": size, "tpot_s_mean": 0.01} for size in (1, 8, 64)]
    draw_axis(hand_made(table, "batch_size"), Path("a.png"))
    draw_axis(hand_made(table[:2], "batch_size"), Path("a.png"))
    assert [figure.axes[0].get_xscale() for figure in drawn] == ["log", "linear"]


def test_forty_policies_look_different() -> None:
    assert len({style[:2] for style in styles([str(number) for number in range(40)]).values()}) == 40


@pytest.mark.parametrize("draw", [draw_axis, draw_pareto, draw_stalls])
def test_more_panels_than_fit_are_one_line(draw: Any, tmp_path: Path) -> None:
    table = [row | {"batch_size": size} for size in range(1, 14) for row in rows()]
    with pytest.raises(
        UserError,
        match=r"a\.png: (cache.share × )?batch_size have (13|39) combinations of values, at most (12|4) can be",
    ):
        draw(hand_made(table, *AXES, "batch_size"), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("draw", [draw_axis, draw_pareto])
def test_a_sweep_without_a_finished_run_cannot_be_drawn(draw: Any) -> None:
    sweep = hand_made([row | {"status": "failed", "reason": "broke"} for row in rows()], *AXES)
    with pytest.raises(UserError, match=r"^a\.png: nothing to draw: none of the 18 runs finished$"):
        draw(sweep, Path("a.png"))


def test_a_metric_that_no_run_has_cannot_be_drawn() -> None:
    with pytest.raises(FieldError, match="no run of the sweep has a value of ttft_s_mean"):
        draw_axis(hand_made(rows(ttft_s_mean=None), *AXES), Path("a.png"), metric="ttft_s_mean")


@pytest.mark.parametrize("seed", range(5))
def test_a_front_has_the_points_that_no_other_dominates(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 8, (2, 30)).tolist()  # with equal points and equal coordinates
    points = list(zip(x, y, strict=True))
    brute = [not any(a <= c and b <= d and (a, b) != (c, d) for a, b in points) for c, d in points]
    assert on_front(x, y).tolist() == brute


def test_fronts_leave_out_oracles_and_preloaded_policies(drawn: list[Any]) -> None:
    table = [
        *rows(("lru", "lfu", "belady"), seeds=1),
        *rows(("no-offload",), seeds=1, preloaded=True, tpot_s_mean=1e-6, expert_memory_bytes=1),
    ]
    sweep = hand_made(table, *AXES)
    draw_pareto(sweep, Path("a.png"))
    for panel, (x, y, more) in zip(drawn[0].axes, FRONTS, strict=True):
        sign = -1 if more else 1
        own = sweep.frame[sweep.frame["policy"].isin(["lru", "lfu"])]
        front = own[on_front(own[x].tolist(), (sign * own[y]).tolist())].sort_values(x)
        (line,) = panel.get_lines()
        assert line.get_ydata().tolist() == pytest.approx((front[y] * (1e3 if sign == 1 else 100)).tolist())
        assert line.get_xdata().tolist() == pytest.approx((front[x] / 1e6).astype(float).tolist())
        assert [len(points.get_facecolors()) > 0 for points in panel.collections] == [True, True, False, False]
    assert {"belady\nknows future demands\n(not on the front)", "no-offload\n(not on the front)"} <= set(
        names(drawn[0])
    )
    assert [panel.get_ylabel().partition("\n")[2] for panel in drawn[0].axes] == [
        "(less is better)",
        "(more is better)",
        "(more is better)",
    ]


@pytest.mark.parametrize(
    ("metric", "largest", "label"),
    [
        ("tpot_s_mean", 0.1, ("TPOT, mean [ms]", 1e3)),
        ("ttft_s_p95", 0.1, ("ttft p95 [ms]", 1e3)),
        ("makespan_s", 100.0, ("time of the whole run [s]", 1)),
        ("hit_rate_decode", 1.0, ("hit rate decode [%]", 100)),
        ("copied_bytes", 1e10, ("copied bytes [GB]", 1e-9)),
        ("bytes_per_token", 1e7, ("copied per output token [MB]", 1e-6)),
        ("evictions", 1e7, ("evictions", 1)),
    ],
)
def test_labels_have_units(metric: str, largest: float, label: tuple[str, float]) -> None:
    assert metric_label(metric, largest) == label


@pytest.mark.parametrize(
    ("draw", "suffix"), slow_but([*product((draw_axis, draw_pareto), PICTURES)], (draw_axis, ".pdf"))
)
def test_equal_sweeps_give_equal_pictures(draw: Any, suffix: str, tmp_path: Path) -> None:
    sweep = hand_made(rows(), *AXES)
    for name in ("a", "b"):
        draw(sweep, tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.fixture(scope="module")
def simulated(trace: Path) -> Sweep:
    return simulated_sweep(trace, policies=("lru", "deepspeed", "finemoe", "belady"), seeds=(0, 1))


@pytest.mark.parametrize("draw", [draw_axis, draw_pareto])
def test_a_pictures_title_says_what_was_simulated(draw: Any, simulated: Sweep, tmp_path: Path) -> None:
    draw(simulated, tmp_path / "a.svg")
    picture = " ".join(re.findall("<!-- (.*?) -->", (tmp_path / "a.svg").read_text()))  # its lines of text
    for text in (
        "Simulated: small.trace (SYNTHETIC routing in the shape of small) with the sizes of small",
        "on rtx3090x6 (6 × RTX 3090); the cache holds 8 to 16 of 32 experts (25% to 50%)",
        "simulated TPOT, mean [ms]",
        "knows future demands",
    ):
        assert text in picture
    assert "easured" not in picture


def test_a_bar_of_a_policy_has_the_parts_of_its_mean_iteration(drawn: list[Any], simulated: Sweep) -> None:
    sweep = replace(simulated, frame=simulated.frame[simulated.frame["policy"] != "belady"])
    draw_stalls(sweep, Path("a.png"))
    assert [panel.get_title() for panel in shown(drawn[0])] == ["cache.share=0.25", "cache.share=0.5"]
    for panel, share in zip(shown(drawn[0]), (0.25, 0.5), strict=True):
        assert [text.get_text() for text in panel.get_yticklabels()] == ["lru", "deepspeed", "finemoe"]
        own = sweep.frame[sweep.frame["cache.share"] == share]
        for policy, at in zip(("lru", "deepspeed", "finemoe"), (2, 1, 0), strict=True):
            pieces = [bar for bar in panel.patches if bar.get_y() < at < bar.get_y() + bar.get_height()]
            seconds = own[own["policy"] == policy][[f"decode_{part}" for part in PARTS]].mean()
            assert sum(bar.get_width() for bar in pieces) == pytest.approx(seconds.sum() * 1e3)
            end_ms = max(bar.get_x() + bar.get_width() for bar in pieces)
            assert end_ms == pytest.approx(seconds.sum() * 1e3)  # one behind the other
    assert {"compute", "miss (waiting)", "prefetch (waiting)"} <= set(names(drawn[0]))

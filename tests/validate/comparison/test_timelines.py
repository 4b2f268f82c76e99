"""Timelines read from decision logs, and their picture."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from policies.cache.decision_log import CallName, DecisionLog, LoggedCall, Transfer, transfers
from policies.cache.observed_cache import ObservedCache
from policies.evictors.recency import LeastRecentlyUsed
from policies.hooks import Hooks
from policies.types import Prefetch
from sim.__main__ import main as sim
from sim.engine.batching import fixed_batches
from sim.engine.engine import Engine
from sim.engine.recorder import Recorder
from tests.support.builders import US, HandCost, request_of, scripted, setup_of, shape
from tests.support.compare_helpers import passed_off, slower
from tests.support.run_helpers import arguments
from validate.__main__ import main
from validate.comparison.matching import Folder
from validate.comparison.timelines import Iteration, LayerSpan, Log, draw, logs_of, strip, typical_iteration


def row(time_s: float, call: CallName, *, layer: int = -1, experts: tuple[int, ...] = ()) -> LoggedCall:
    return LoggedCall(time_s, call, 0, layer=layer, experts=experts)


def began(time_s: float, gpu: int, layer: int, expert: int, demanded: bool) -> LoggedCall:
    chosen = LoggedCall(time_s, "next_copy", 0, gpu=gpu, layer=layer, expert=expert, demanded=demanded)
    return chosen._replace(chunk=0, slot=0)


def no_slot(time_s: float, gpu: int) -> LoggedCall:
    return LoggedCall(time_s, "next_copy", 0, gpu=gpu)


def arrived(time_s: float, gpu: int, layer: int, expert: int, complete: bool = True) -> LoggedCall:
    return LoggedCall(time_s, "copied", 0, gpu=gpu, layer=layer, expert=expert, complete=complete)


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_a_copy_lasts_until_its_arrival_is_logged() -> None:
    rows = [
        began(1, 0, 0, 3, True),
        no_slot(1, 1),
        began(2, 1, 1, 4, False),
        arrived(3, 0, 0, 3, complete=False),
        began(3, 0, 0, 3, True),
        arrived(5, 0, 0, 3),
    ]
    assert transfers(rows) == [
        Transfer(0, 0, 3, True, 1, 3, complete=False),
        Transfer(1, 1, 4, False, 2, float("inf"), complete=False),
        Transfer(0, 0, 3, True, 3, 5, complete=True),
    ]


def hand_made() -> Log:
    """Two layers of four experts, one per token, two slots; attention takes 5 µs, an expert 4 µs, a copy 10 µs.

    Iteration 0, cold: 5 gate a, a0 5-15, computed 15-19; the plan brings b1 15-25.
                       24 gate b, b1 is late, computed 25-29.
    Iteration 1, from 29: 34 gate a, a0 is there, computed 34-38. 43 gate b, b2 43-53 evicts b1, computed 53-57.
    """
    model = shape(top_k=1)
    request = request_of([[[0], [1]], [[0], [2]]], model)
    plans = {(0, 0): [Prefetch(1, [1], [1.0])]}
    policy = scripted(plans, LeastRecentlyUsed())
    policy.evictor.start(setup_of(model))
    log, recorder = DecisionLog(), Recorder()
    cache = ObservedCache(model, policy.evictor, slots=[2], observers=[log])
    steps = fixed_batches([request], 1)
    Engine(hooks=Hooks(policy), cache=cache, cost=HandCost(), steps=steps, recorder=recorder).run()
    frame = recorder.iterations().set_index("iteration")[["prefill", "start_s", "end_s"]]
    return Log(log.in_time(), {number: Iteration(*values) for number, *values in frame.itertuples(name=None)})


def in_us(values: Any) -> list[float]:
    return [round(value / US, 6) for value in values]


def test_a_hand_made_iteration_is_read_back_from_its_log() -> None:
    first = strip(hand_made(), 0)
    assert in_us([first.seconds]) == [29]
    assert [(span.layer, *in_us(span[1:])) for span in first.layers] == [(0, 5, 15, 19), (1, 24, 25, 29)]
    assert [(each.layer, each.expert, each.demanded, *in_us(each[4:6])) for each in first.transfers] == [
        (0, 0, True, 5, 15),
        (1, 1, False, 15, 25),
    ]


def test_a_later_iteration_counts_from_its_own_begin() -> None:
    second = strip(hand_made(), 1)
    assert in_us([second.seconds]) == [28]
    assert [(span.layer, *in_us(span[1:])) for span in second.layers] == [(0, 5, 5, 9), (1, 14, 24, 28)]
    assert [(each.layer, each.expert, each.demanded, *in_us(each[4:6])) for each in second.transfers] == [
        (1, 2, True, 14, 24)
    ]


def test_a_copy_that_reaches_over_an_iterations_ends_is_cut_off() -> None:
    rows = [began(1, 0, 0, 3, False), arrived(12, 0, 0, 3), began(15, 0, 1, 3, False)]
    found = strip(Log(rows, {0: Iteration(False, 0, 10), 1: Iteration(False, 10, 20)}), 1)
    assert [each[4:6] for each in found.transfers] == [(0, 2), (5, 10)]


def test_a_layer_waits_for_the_last_expert_that_it_demanded_and_no_other() -> None:
    """Expert 1 comes in two chunks; a prefetch for the next layer arrives after both."""
    rows = [
        row(0, "begin_iteration"),
        row(1, "demand", layer=0, experts=(1, 2)),
        began(1, 0, 0, 1, True),
        arrived(2, 0, 0, 1, complete=False),
        began(2, 0, 0, 1, True),
        arrived(3, 0, 0, 1),
        began(3, 0, 1, 2, False),
        arrived(4, 0, 1, 2),
        row(6, "release", layer=0, experts=(1, 2)),
        row(7, "demand", layer=1, experts=(2,)),
        row(8, "release", layer=1, experts=(2,)),
    ]
    found = strip(Log(rows, {0: Iteration(False, 0, 9)}), 0)
    assert found.layers == [LayerSpan(0, 1, 3, 6), LayerSpan(1, 7, 7, 8)]


def test_a_layer_in_waves_lasts_until_its_last_expert_is_released() -> None:
    rows = [
        row(1, "demand", layer=0, experts=(1, 2)),
        row(3, "release", layer=0, experts=(1,)),
        row(5, "release", layer=0, experts=(2,)),
    ]
    assert strip(Log(rows, {0: Iteration(False, 0, 9)}), 0).layers == [LayerSpan(0, 1, 1, 5)]


# ---- which iteration -------------------------------------------------------------------------------------------------


def lasting(*seconds: float, prefill: tuple[int, ...] = ()) -> Log:
    return Log(
        [], {number: Iteration(number in prefill, 100 * number, 100 * number + s) for number, s in enumerate(seconds)}
    )


@pytest.mark.parametrize(
    ("seconds", "prefill", "expected"),
    [
        ((9, 1, 5, 3), (0,), 3),  # of 1, 5 and 3
        ((9, 1, 5, 3, 4), (0,), 3),  # the lower of 3 and 4
        ((2, 9), (0, 1), 0),  # prefill is all there is
        ((7,), (), 0),
    ],
)
def test_the_typical_iteration_is_the_decode_step_of_median_time(
    seconds: tuple[float, ...], prefill: tuple[int, ...], expected: int
) -> None:
    assert typical_iteration({"lru": lasting(*seconds, prefill=prefill)}) == expected


def test_the_typical_iteration_is_that_of_all_policies_together() -> None:
    assert typical_iteration({"a": lasting(1, 2, 3), "b": lasting(9, 1, 1)}) == 2  # 10, 3 and 4


# ---- the picture -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    simulated = tmp_path_factory.mktemp("simulated") / "simulated"
    policies = ("finemoe", "lru", "no-offload")
    assert sim(arguments(trace, "--out", simulated, "--detail", "events", policies=policies)) == 0
    return simulated, passed_off(simulated, tmp_path_factory.mktemp("measured") / "measured", slower)


@pytest.mark.parametrize("more", [pytest.param((), marks=pytest.mark.slow), ("--iteration", "0")])
def test_the_picture_is_drawn(folders: tuple[Path, Path], tmp_path: Path, more: tuple[str, ...]) -> None:
    picture = tmp_path / "below" / "a.png"
    assert main(["compare", *map(str, folders), "--plot", str(picture), "--overwrite", *more]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert list(picture.parent.iterdir()) == [picture]


def test_every_strip_says_whether_it_was_simulated_or_measured(folders: tuple[Path, Path], tmp_path: Path) -> None:
    logs = [logs_of(Folder.read(folder), ["finemoe", "lru"]) for folder in folders]
    draw(logs[0], logs[1], 5, tmp_path / "a.svg", title="some.trace")
    svg = (tmp_path / "a.svg").read_text()
    for policy in ("finemoe", "lru"):
        seconds = strip(logs[0][policy], 5).seconds
        for kind, factor in (("simulated", 1), ("measured", 1.25)):
            assert f"<!-- {policy}, {kind}: {seconds * 1e3 * factor:.1f} ms -->" in svg
    assert "time since iteration 5 began [ms]" in svg


def test_a_missing_iteration_is_one_line(folders: tuple[Path, Path], tmp_path: Path) -> None:
    logs = [logs_of(Folder.read(folder), ["lru"]) for folder in folders]
    with pytest.raises(UserError, match="iteration: must be from 0 to 11 for lru, not 12"):
        draw(logs[0], logs[1], 12, tmp_path / "a.png", title="some.trace")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def plain(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without decision logs."""
    out = tmp_path_factory.mktemp("plain") / "plain"
    assert sim(arguments(trace, "--out", out, policies=("finemoe", "lru", "no-offload"))) == 0
    return out


@pytest.mark.parametrize("lacking", [0, 1])
def test_results_without_a_decision_log_cannot_be_drawn(
    folders: tuple[Path, Path], plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], lacking: int
) -> None:
    pair = list(folders)
    pair[lacking] = passed_off(plain, tmp_path / "measured") if lacking else plain
    capsys.readouterr()
    assert main(["compare", *map(str, pair), "--plot", str(tmp_path / "a.png")]) == 2
    captured = capsys.readouterr()
    said = f"{pair[lacking]} has no events to draw timelines from; repeat both runs with `--detail events`"
    assert (captured.out, captured.err) == ("", f"error: {said}\n")
    assert not (tmp_path / "a.png").exists()

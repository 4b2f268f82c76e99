"""Long work shows how far it is, also where no bar can be drawn; short work stays silent."""

import pytest

from common import progress
from common.progress import bar
from tests.support.terminal import terminal


@pytest.fixture(autouse=True)
def _shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TQDM_DISABLE", "")


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    with bar("measure", 40, "prompt") as done:
        for _ in range(40):
            now_s[0] += 2
            done(1)
    assert capsys.readouterr().err.splitlines() == [
        "measure: 15 of 40 prompts, 30 s so far",
        "measure: 30 of 40 prompts, 60 s so far",
    ]


def test_short_work_and_workers_say_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with bar("measure", 1) as done:
        done(1)
    monkeypatch.setattr(progress, "LOG_PACE_S", 0)
    with bar("measure", 1, quiet=True) as done:
        done(1)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    with bar("measure", 1) as done:
        done(1)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_vanishes(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = terminal(monkeypatch)
    with bar("measure", 2, "prompt") as done:
        done(2)
    drawn = screen.states()
    assert drawn[1].startswith("measure:   0%|")
    assert " 0/2 [" in drawn[1]
    assert drawn[-1] == ""
    assert drawn[-2].strip() == ""  # drawn over it

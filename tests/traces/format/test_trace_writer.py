"""Interruptions lose at most one part of a trace and change no byte of it."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.interruptions import interruptible, to_resume
from tests.support.slow_cases import slow_but
from tests.support.trace_helpers import (
    PLAN,
    Pair,
    assert_same,
    content,
    random_request,
    small_meta,
    small_shape,
    small_trace,
    write_trace,
)
from traces.format.reader import Trace
from traces.format.writer import TraceWriter


class Kill(BaseException):
    """The process is gone."""


class Mortal:
    """Kills the process at the n-th thing that it does to the disk; the dead do nothing more."""

    CALLS = ("fsync", "rename", "mkdir", "unlink", "rmdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.left = at
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call: Any) -> Any:
        def mortal(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Kill
            return call(*args, **kwargs)

        return mortal


def killed(monkeypatch: pytest.MonkeyPatch, at: int, path: Path, parts: list[list[Pair]], **options: Any) -> bool:
    with monkeypatch.context() as patch:
        Mortal(patch, at)
        try:
            write_trace(path, small_meta(), parts, **options)
        except Kill:
            return True
    return False


@pytest.fixture(scope="module")
def two_parts() -> list[list[Pair]]:
    meta = small_meta()
    return [[random_request(request, meta) for request in part] for part in ([2, 0], [1])]


@pytest.mark.parametrize("step", slow_but([1, 2], 2))
def test_a_process_killed_anywhere_leaves_what_can_be_resumed_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_parts: list[list[Pair]], step: int
) -> None:
    """Or, in less time, at every other thing that it does to the disk."""
    expected = content(write_trace(tmp_path / "whole.trace", small_meta(), two_parts))
    at, ends = 0, {"resumed": 0, "finished": 0}
    while True:
        path = tmp_path / f"{at}.trace"
        if not killed(monkeypatch, at, path, two_parts):
            break
        if not path.exists():
            killed(monkeypatch, at // 2, path, two_parts)
        end = "finished" if path.exists() else "resumed"
        with pytest.raises(UserError, match="exists already") if path.exists() else nullcontext():
            write_trace(path, small_meta(), two_parts)
        ends[end] += 1
        assert content(path) == expected, at
        assert not path.with_name(path.name + ".partial").exists(), at
        at += step
    assert min(ends.values()) > 0
    assert at > 30  # every stage was reached


@pytest.mark.parametrize("step", slow_but([1, 2], 2))
def test_a_process_killed_while_it_replaces_a_trace_leaves_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_parts: list[list[Pair]], step: int
) -> None:
    new = content(write_trace(tmp_path / "new.trace", small_meta(), two_parts))
    old = content(write_trace(tmp_path / "old.trace", small_meta(), two_parts[1:]))
    with TraceWriter(tmp_path / "begun.trace", small_meta(), plan=PLAN) as writer:
        for number, part in enumerate(two_parts):
            writer.write_part(number, *zip(*part, strict=True))
    at = 0
    while True:
        path = Path(shutil.copytree(tmp_path / "old.trace", tmp_path / f"{at}.trace"))
        shutil.copytree(tmp_path / "begun.trace.partial", tmp_path / f"{at}.trace.partial")
        if not killed(monkeypatch, at, path, two_parts, overwrite=True):
            break
        TraceWriter(path, small_meta(), plan=PLAN, overwrite=True).close()
        assert content(path) in (old, new), at
        write_trace(path, small_meta(), two_parts, overwrite=True)
        assert content(path) == new, at
        assert not path.with_name(path.name + ".partial").exists(), at
        at += step
    assert at > 15  # every stage of `finish` was reached


def test_finished_parts_are_not_asked_for_again(tmp_path: Path, two_parts: list[list[Pair]]) -> None:
    with TraceWriter(tmp_path / "a.trace", small_meta(), plan=PLAN) as writer:
        assert writer.finished == set()
        writer.write_part(1, *zip(*two_parts[1], strict=True))
    with TraceWriter(tmp_path / "a.trace", small_meta(), plan=PLAN) as writer:
        assert writer.finished == {1}
        with pytest.raises(ValueError, match="part 1 is finished"):
            writer.write_part(1, *zip(*two_parts[1], strict=True))


def test_another_plan_is_refused_and_named(tmp_path: Path, two_parts: list[list[Pair]]) -> None:
    path = tmp_path / "a.trace"
    with TraceWriter(path, small_meta(), plan={"seed": 1, "generation": {"top_p": 0.9}}) as writer:
        writer.write_part(0, *zip(*two_parts[0], strict=True))
    other = {"seed": 1, "generation": {"top_p": 0.8}}
    with pytest.raises(UserError, match=r"plan\.generation\.top_p was 0\.9 and is 0\.8; `restart` discards its work$"):
        TraceWriter(path, small_meta(), plan=other)
    with pytest.raises(UserError, match=r"meta\.versions\.torch was None and is '2\.12'"):
        TraceWriter(path, small_meta(versions={"torch": "2.12"}), plan=other)
    with TraceWriter(path, small_meta(), plan=other, restart=True) as writer:
        assert writer.finished == set()


def test_what_was_asked_for_is_named_before_what_follows_from_it(tmp_path: Path, two_parts: list[list[Pair]]) -> None:
    metas = [
        small_meta(kind="synthetic", seed=seed, generation={"expected": {"load_cv": 0.3 + seed, "overlap": seed}})
        for seed in (0, 5)
    ]
    with TraceWriter(tmp_path / "a.trace", metas[0], plan={}) as writer:
        writer.write_part(0, *zip(*two_parts[0], strict=True))
    with pytest.raises(UserError, match=r"settings: meta\.seed was 0 and is 5; meta\.generation\.expected\.load"):
        TraceWriter(tmp_path / "a.trace", metas[1], plan={})


def test_a_plan_that_differs_in_a_hash_is_refused_without_the_hash(tmp_path: Path, two_parts: list[list[Pair]]) -> None:
    plans = [{"lengths": digit * 64} for digit in "af"]
    with TraceWriter(tmp_path / "a.trace", small_meta(), plan=plans[0]) as writer:
        writer.write_part(0, *zip(*two_parts[0], strict=True))
    with pytest.raises(UserError, match=r"other settings: plan\.lengths differs; `restart` discards its work$"):
        TraceWriter(tmp_path / "a.trace", small_meta(), plan=plans[1])


def test_without_a_finished_part_nothing_stays_and_nothing_is_in_the_way(
    tmp_path: Path, two_parts: list[list[Pair]]
) -> None:
    path = tmp_path / "a.trace"
    with TraceWriter(path, small_meta(), plan={"seed": 1}):
        pass
    assert list(tmp_path.iterdir()) == []
    TraceWriter(path, small_meta(), plan={"seed": 1})  # as if the process had been killed
    assert (tmp_path / "a.trace.partial" / "plan.json").exists()
    with TraceWriter(path, small_meta(), plan={"seed": 2}) as writer:
        writer.write_part(0, *zip(*two_parts[0], strict=True))
        writer.finish()
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_resumable_leaves_no_part_of_its_own_or_of_an_earlier_run(
    tmp_path: Path, two_parts: list[list[Pair]]
) -> None:
    path = tmp_path / "a.trace"
    with TraceWriter(path, small_meta(), plan={"seed": 1}) as writer:
        writer.write_part(0, *zip(*two_parts[0], strict=True))
    with interruptible(resumes="once kept"):
        with TraceWriter(path, small_meta(), plan={"seed": 2}, resumable=False) as writer:
            assert writer.finished == set()
            writer.write_part(0, *zip(*two_parts[0], strict=True))
            with pytest.raises(UserError, match=r"the disk is full; nothing was kept$"), writer._disk():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert to_resume() is None
    assert list(tmp_path.iterdir()) == []


def test_a_finished_trace_is_replaced_only_when_asked(tmp_path: Path, two_parts: list[list[Pair]]) -> None:
    path = small_trace(tmp_path / "a.trace")
    before = content(path)
    with pytest.raises(UserError, match="exists already; choose another name, or replace it with `overwrite`"):
        TraceWriter(path, small_meta(), plan=PLAN)
    assert content(path) == before
    assert sorted(tmp_path.iterdir()) == [path]
    write_trace(path, small_meta(), two_parts, overwrite=True)
    assert Trace.open(path).request_ids == [0, 1, 2]


def test_two_processes_cannot_write_one_trace(tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "a.trace", small_meta(), plan=PLAN):
        code = (
            "import sys; from pathlib import Path; from tests.support.trace_helpers import *\n"
            "TraceWriter(Path(sys.argv[1]), small_meta(), plan=PLAN)"
        )
        environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-c", code, str(tmp_path / "a.trace")]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "a.trace.partial: another process is writing this trace" in result.stderr


def test_a_trace_replaces_a_trace_and_nothing_else(tmp_path: Path, two_parts: list[list[Pair]]) -> None:
    path = tmp_path / "a.trace"
    write_trace(path, small_meta(), two_parts)
    before = content(path)
    (path / "prompts.jsonl").touch()
    with pytest.raises(UserError, match=r"a\.trace cannot be replaced: it has prompts\.jsonl, which is no part of"):
        write_trace(path, small_meta(), two_parts, overwrite=True)
    (path / "prompts.jsonl").unlink()
    assert content(path) == before
    assert list(tmp_path.iterdir()) == [path]
    write_trace(path, small_meta(), two_parts, overwrite=True)


@pytest.mark.parametrize("restart", [False, True])
def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_parts: list[list[Pair]], restart: bool
) -> None:
    path = tmp_path / "a.trace"
    expected = content(write_trace(tmp_path / "b.trace", small_meta(), two_parts))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    without = " without --restart" * restart
    line = rf"^[^\n]*the disk is full; 1 finished part is kept; run the same command again{without} to resume$"
    with (
        interruptible(resumes="once kept"),
        TraceWriter(path, small_meta(), plan=PLAN, restart=restart) as writer,
    ):
        writer.write_part(0, *zip(*two_parts[0], strict=True))
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=line):
            writer.write_part(1, *zip(*two_parts[1], strict=True))
        with pytest.raises(UserError, match=line):
            writer.finish()
        monkeypatch.undo()
    assert content(write_trace(path, small_meta(), two_parts)) == expected


def test_a_write_that_the_system_refuses_inside_arrow_is_one_line(tmp_path: Path) -> None:
    meta = small_meta(shape=small_shape(layers=20, experts=64), embedding=False)
    info, recorded = random_request(0, meta, prompt=400)
    with TraceWriter(tmp_path / "a.trace", meta, plan=PLAN) as writer:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(UserError, match=r"^[^\n]*File too large; nothing was kept$"):
                writer.write_part(0, [info], [recorded])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list((tmp_path / "a.trace.partial" / "parts").iterdir()) == []
        writer.write_part(0, [info], [recorded])
        writer.finish()
    assert_same(Trace.open(tmp_path / "a.trace").read(0), recorded)

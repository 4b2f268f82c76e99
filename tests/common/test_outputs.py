"""What a command writes is refused before it computes, and belongs to one command at a time."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from common.errors import UserError
from common.files import Contents
from common.outputs import Output, file, folder, reserved, table, then_printed
from common.parquet import write_frame

ROOT = Path(__file__).parents[2]

# A command that reserves, waits for a line, and writes.
COMMAND = """
import sys
from itertools import count
from pathlib import Path
from common.listed_command import Command
from common.program import call
from common.files import new_file
from common.outputs import file, reserved

def write(path: Path, /) -> None:
    with reserved(file(path), overwrite=False):
        print("reserved", flush=True)
        sys.stdin.readline()
        with new_file(path, "it") as partial:
            partial.write_text("whole")

if __name__ == "__main__":
    sys.exit(call("tests", "", {"write": Command("__main__:write", "")}, None))
"""


def started(path: Path) -> "subprocess.Popen[str]":
    """A process that has reserved the path and waits for a line."""
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "write", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "reserved\n"
    return command


SWEEP = Contents("meta.json", "axes", ("sweep.parquet",))


def refusal(*outputs: Output | None, overwrite: bool = False) -> str:
    with pytest.raises(UserError) as error, reserved(*outputs, overwrite=overwrite):
        raise AssertionError("entered")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_of_two_commands_on_one_output_the_second_is_refused_at_its_start(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.txt"
    first = started(path)
    assert refusal(file(path)).startswith(f"{path} cannot be written: process {first.pid}, thread ")
    assert refusal(file(path), overwrite=True).endswith(" is writing there")
    _, said = first.communicate("go\n", timeout=120)
    assert (first.returncode, said, path.read_text()) == (0, "", "whole")
    assert list(path.parent.iterdir()) == [path]
    assert refusal(file(path)) == f"{path} exists already; choose another name, or replace it with `overwrite`"
    with reserved(file(path), overwrite=True):
        pass
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_nothing(tmp_path: Path, number: int, status: int) -> None:
    command = started(tmp_path / "new" / "below" / "a.txt")
    command.send_signal(number)
    command.communicate(timeout=120)
    assert command.returncode == status
    assert list(tmp_path.iterdir()) == []


def test_the_claim_of_a_killed_command_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    killed = started(path)
    killed.kill()
    killed.communicate(timeout=120)
    assert [left.name for left in tmp_path.iterdir()] == ["a.txt.claim"]
    command = started(path)
    command.communicate("go\n", timeout=120)
    assert command.returncode == 0
    assert list(tmp_path.iterdir()) == [path]


def test_threads_of_one_process_keep_each_other_out(tmp_path: Path) -> None:
    said: list[str] = []
    with reserved(file(tmp_path / "a"), overwrite=False):
        other = threading.Thread(target=lambda: said.append(refusal(file(tmp_path / "a"))))
        other.start()
        other.join()
        with reserved(file(tmp_path / "b"), None, overwrite=False):
            pass
    assert f"process {os.getpid()}, thread {threading.get_native_id()} on " in said[0]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_claim_that_was_replaced_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim, lock, others = tmp_path / "a.claim", fcntl.flock, []

    def after_another_command(handle: int, how: int) -> None:
        """Between our opening and locking, the owner ends and another command takes its place."""
        if not others:
            claim.unlink()
            others.append(os.open(claim, os.O_RDWR | os.O_CREAT))
            os.write(others[0], b"process 1, another")
            lock(others[0], fcntl.LOCK_EX)
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", after_another_command)
    assert refusal(file(tmp_path / "a")) == f"{tmp_path / 'a'} cannot be written: process 1, another is writing there"
    os.close(others[0])


def test_a_claim_that_the_disk_has_no_room_for_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, content: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    assert refusal(file(tmp_path / "a")) == f"{tmp_path / 'a'} cannot be written: No space left on device"
    assert list(tmp_path.iterdir()) == []


def test_a_claim_whose_owners_keep_leaving_is_given_up_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def the_owner_leaves(handle: int, how: int) -> None:
        (tmp_path / "a.claim").unlink()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", the_owner_leaves)
    assert refusal(file(tmp_path / "a")) == f"{tmp_path / 'a'} cannot be written: other commands keep writing there"
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_try_at_once_one_is_in_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a"
    inside: list[int] = []
    most: list[int] = []
    entered: list[int] = []
    said: list[str] = []
    tried: list[int] = []

    def tries() -> None:
        """200 times, and until it has been in 50 times: how often the others are in its way depends on the machine."""
        own = 0
        for number in count():
            if number >= 200 and own >= 50:
                break
            tried.append(1)
            try:
                with reserved(file(path), overwrite=False):
                    inside.append(1)
                    most.append(len(inside))
                    entered.append(1)
                    own += 1
                    inside.pop()
            except UserError as error:
                said.append(str(error))

    threads = [threading.Thread(target=tries) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(entered) + len(said) == len(tried) >= 800
    assert len(entered) >= 200
    assert all(line.endswith("writing there") for line in said)
    assert list(tmp_path.rglob("*.claim")) == []


def test_an_output_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path, problem in (
        (tmp_path / "file" / "a", "Not a directory"),
        (tmp_path / "file" / "a" / "b", "Not a directory"),
        (tmp_path / ("a" * 256), "File name too long"),
        (tmp_path / ("a" * 250), "File name too long"),  # itself it is not, but what becomes it is
        (tmp_path / "new" / ("a" * 256) / "b", "File name too long"),
        (Path("/proc/a"), "No such file or directory"),
        (Path("/proc/a/b"), "No such file or directory"),
    ):
        assert refusal(file(path)) == f"{path} cannot be written: {problem}"
        assert refusal(file(path), overwrite=True) == f"{path} cannot be written: {problem}"
    assert refusal(file(tmp_path), overwrite=True) == f"{tmp_path} cannot be replaced: it is a folder"
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "mine")]


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_an_error_of_the_operating_system_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    for name in ("open", "pwrite"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, refused)
            path = tmp_path / "below" / "a"
            assert refusal(file(path)) == f"{path} cannot be written: {os.strerror(number)}"
        assert list(tmp_path.iterdir()) == []


def test_without_locks_an_output_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    with reserved(file(tmp_path / "a"), overwrite=False):
        assert [each.name for each in tmp_path.iterdir()] == ["a.claim"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_only_has_the_name_of_a_claim_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a.claim").write_text("mine")
    assert "a.claim is in the way" in refusal(file(tmp_path / "a"))
    assert (tmp_path / "a.claim").read_text() == "mine"


def test_two_outputs_of_one_command_are_two_places(tmp_path: Path) -> None:
    assert refusal(file(tmp_path / "a"), file(tmp_path / "b" / ".." / "a")).endswith("two outputs have this name")
    within = "cannot be written: two outputs must not lie within each other"
    assert refusal(file(tmp_path / "a"), file(tmp_path / "a" / "b")) == f"{tmp_path}/a/b {within}"
    assert refusal(file(tmp_path / "a" / "b"), file(tmp_path / "a")) == f"{tmp_path}/a {within}"
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_to_be_overwritten_stays_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.trace"
    path.mkdir()
    assert refusal(folder(path, SWEEP)) == f"{path} exists already; choose another name, or replace it with `overwrite`"
    with reserved(folder(path, SWEEP), overwrite=True):
        assert path.is_dir()
    assert list(tmp_path.iterdir()) == [path]


def test_only_what_such_a_command_wrote_is_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    sweep = folder(mine, SWEEP)
    with reserved(sweep, overwrite=True):  # it is empty
        pass
    (mine / "sweep.parquet").touch()
    for description in (None, "", "{", "[]", '{"title": "my data"}'):
        if description is not None:
            (mine / "meta.json").write_text(description)
        assert refusal(sweep, overwrite=True) == f"{mine} cannot be replaced: it has no meta.json of such an output"
    (mine / "meta.json").write_text('{"axes": []}')
    with reserved(sweep, overwrite=True):
        pass
    for other in ("thesis.tex", "tokens.parquet"):
        (mine / other).touch()
        said = f"{mine} cannot be replaced: it has {other}, which is no part of such an output"
        assert refusal(sweep, overwrite=True) == said
        (mine / other).unlink()
    (mine / "store").mkdir()
    assert refusal(sweep, overwrite=True).endswith("it has store, which is no part of such an output")
    (tmp_path / "file").touch()
    file_in_place = folder(tmp_path / "file", SWEEP)
    assert refusal(file_in_place, overwrite=True).endswith("cannot be replaced: it is a file")
    os.mkfifo(tmp_path / "pipe")
    assert refusal(file(tmp_path / "pipe"), overwrite=True).endswith("cannot be replaced: it is not a regular file")


def test_only_a_table_of_such_a_command_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_frame(path, pd.DataFrame({"metric": [1], "measured": [2]}), {})
    with reserved(table(path, "metric", "measured"), overwrite=True):
        pass
    for mine, why in (
        (lambda: write_frame(path, pd.DataFrame({"metric": [1]}), {}), "it has no column measured"),
        (lambda: pd.DataFrame({"metric": [1], "measured": [2]}).to_parquet(path), "no command of this project wrote"),
        (lambda: path.write_text("mine"), "a.parquet: cannot be read: "),
    ):
        mine()
        said = refusal(table(path, "metric", "measured"), overwrite=True)
        assert said.startswith(f"{path} cannot be replaced, because it is something else: ")
        assert why in said


def test_a_link_is_never_overwritten(tmp_path: Path) -> None:
    for name in ("folder", "file"):
        (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).touch()
        (tmp_path / f"to_{name}").symlink_to(tmp_path / name)
    for link in (folder(tmp_path / "to_folder", SWEEP), file(tmp_path / "to_file")):
        assert f"cannot be replaced: it is a link to {tmp_path}/" in refusal(link, overwrite=True)
        assert refusal(link) == f"{link.path} is a link, which is never replaced; choose another name"


def test_a_file_that_is_something_else_is_never_overwritten(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        if path.read_text() != "a profile":
            raise UserError(f"{path}: gpus: is required")

    path = tmp_path / "a.toml"
    with reserved(file(path, reads=read), overwrite=True):
        path.write_text("a sweep")
    said = f"{path} cannot be replaced, because it is something else: {path}: gpus: is required"
    assert refusal(file(path, reads=read), overwrite=True) == said
    path.write_text("a profile")
    with reserved(file(path, reads=read), overwrite=True):
        pass


@pytest.mark.parametrize(
    ("name", "what"), [("meta.json", "the output of another command"), ("store.json", "a result store")]
)
@pytest.mark.parametrize("output", ["summary.parquet", "a.png", "below"])
def test_nothing_is_written_into_the_output_of_another_command(
    tmp_path: Path, name: str, what: str, output: str
) -> None:
    (tmp_path / name).touch()
    path = tmp_path / output
    said = f"{path} cannot be written: {tmp_path} is {what}"
    assert refusal(file(path)) == refusal(file(path), overwrite=True) == said


def test_what_a_command_reads_is_never_overwritten(tmp_path: Path) -> None:
    mine = tmp_path / "mine.parquet"
    mine.touch()
    for path in (mine, tmp_path / "below" / ".." / "mine.parquet"):
        with (
            pytest.raises(UserError, match=r"/\w+\.parquet cannot be replaced: this command reads it$"),
            reserved(file(path), overwrite=True, inputs=[None, mine]),
        ):
            raise AssertionError("entered")


def test_a_trace_is_no_place_for_an_output(tmp_path: Path) -> None:
    trace = tmp_path / "a.trace"
    trace.mkdir()
    (trace / "meta.json").write_text("{}")
    for path in (trace / "b", trace / "below" / "b", tmp_path / "below" / ".." / "a.trace" / "b"):
        for overwrite in (False, True):
            assert refusal(file(path), overwrite=overwrite) == f"{path} cannot be written: {trace} is a trace"


@pytest.mark.parametrize("path", [".", "..", "/", "a/.."])
def test_an_output_has_a_name(path: str) -> None:
    for overwrite in (False, True):
        said = refusal(folder(Path(path), SWEEP), overwrite=overwrite)
        assert said.endswith("it is not a name for a file or folder")


def test_an_error_in_the_block_releases_the_output(tmp_path: Path) -> None:
    for error in (ValueError("a mistake"), KeyboardInterrupt(), SystemExit(1)):
        with pytest.raises(type(error)), reserved(file(tmp_path / "below" / "a"), overwrite=False):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_text_is_printed_whether_writing_succeeds_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    with then_printed(lambda: "the table"):
        assert capsys.readouterr().out == ""
    assert capsys.readouterr().out == "the table\n"
    with pytest.raises(UserError, match="the disk is full"), then_printed(lambda: "the table", Path("a.png")):
        raise UserError("the disk is full")
    assert capsys.readouterr().out == "the table\n"


def test_what_was_written_is_named_below_the_text_and_never_within_json(capsys: pytest.CaptureFixture[str]) -> None:
    with then_printed(lambda: "the table", Path("rows.parquet"), Path("a.png")):
        pass
    assert capsys.readouterr() == ("the table\nwrote rows.parquet\nwrote a.png\n", "")
    with then_printed(lambda: "[]", None, Path("a.png"), quiet=True):
        pass
    assert capsys.readouterr() == ("[]\n", "")


def test_a_write_error_is_reported_even_if_the_pipe_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: Any, **options: Any) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    with pytest.raises(UserError, match="the disk is full"), then_printed(lambda: "the table"):
        raise UserError("the disk is full")

"""Files and folders that appear whole or not at all."""

import errno
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import (
    Contents,
    files_together,
    is_alive,
    make_folders,
    new_file,
    new_folder,
    refuse_existing,
    replacing,
    scratch_folder,
    write_json,
)

ROOT = Path(__file__).parents[2]


def test_a_whole_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "below" / "a.txt"
    for text in ("first", "second"):
        with replacing(path, "it") as partial:
            partial.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "below" / "results"
    with new_folder(path, "results") as partial:
        (partial / "a.txt").write_text("whole")
        assert not path.exists()
    assert (path / "a.txt").read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def broken_off(made: AbstractContextManager[Path], error: BaseException) -> None:
    """Write half of it, and raise."""
    with made as partial:
        (partial / "b.txt" if partial.is_dir() else partial).write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a mistake"), SystemExit(1)])
def test_an_interrupted_block_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    for made in (replacing(path, "it"), new_file(path, "it"), new_folder(tmp_path / "a", "results")):
        with pytest.raises(type(error)):
            broken_off(made, error)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    for made, path in (
        (replacing(tmp_path / "a.txt", "the table"), "a.txt: the table"),
        (new_folder(tmp_path / "a", "results"), "a: results"),
    ):
        with pytest.raises(UserError, match=f"/{path} could not be written: No space left on device$"):
            broken_off(made, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_refused_before_and_after(tmp_path: Path) -> None:
    path = tmp_path / "results"

    def overtaken() -> None:
        with new_folder(path, "results") as partial:
            (partial / "a.txt").write_text("mine")
            path.mkdir()  # another process was faster

    with pytest.raises(UserError, match="exists already"):
        overtaken()
    assert list(tmp_path.iterdir()) == [path]
    assert list(path.iterdir()) == []
    with pytest.raises(UserError, match="exists already"):
        refuse_existing(path)
    with pytest.raises(UserError, match="exists already"), new_folder(path, "results"):
        raise AssertionError("entered")


TEXTS = Contents("meta.json", "texts", ("first.txt", "second.txt"))


def test_a_folder_replaces_the_old_one_if_asked_to(tmp_path: Path) -> None:
    path = tmp_path / "results"
    for text in ("first", "second"):
        with new_folder(path, "results", replaces=TEXTS) as partial:
            (partial / f"{text}.txt").write_text(text)
            write_json(partial / "meta.json", {"texts": 1})
    assert sorted(file.name for file in path.iterdir()) == ["meta.json", "second.txt"]
    for error in (KeyboardInterrupt(), ValueError("a mistake")):
        with pytest.raises(type(error)):
            broken_off(new_folder(path, "results", replaces=TEXTS), error)
    assert sorted(file.name for file in path.iterdir()) == ["meta.json", "second.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results"
    with new_folder(path, "results") as partial:
        (partial / "first.txt").write_text("before")
        write_json(partial / "meta.json", {"texts": 1})
    rename = Path.rename

    def refused(source: Path, target: Path) -> Path:
        if source.name.endswith(".partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="No space left"), new_folder(path, "results", replaces=TEXTS):
        pass
    assert (path / "first.txt").read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def contents(folder: Path) -> dict[str, str]:
    return {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*") if each.is_file()}


def refuses_hard_links(monkeypatch: pytest.MonkeyPatch, number: int = errno.EPERM) -> None:
    """Make the file system one without hard links, or one that fails with another error."""

    def refused(path: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "hardlink_to", refused)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))])
@pytest.mark.parametrize("step", range(3))
def test_files_arrive_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, step: int
) -> None:
    """Also if the error comes when some have moved already."""
    before = {"a.txt": "old", "below/b.txt": "old"}
    out = tmp_path / "out"
    (out / "below").mkdir(parents=True)
    for name, text in before.items():
        (out / name).write_text(text)
    replace, moved = Path.replace, []

    def fails(path: Path, target: Path) -> Path:
        if path.read_text() == "new":
            moved.append(path)
        if len(moved) == step + 1:
            moved.append(path)
            raise error
        return replace(path, target)

    def write() -> None:
        with files_together(out, "the figures") as partial:
            for name in (*before, "deep/er/c.txt"):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                (partial / name).write_text("new")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        write()
    assert contents(out) == before
    assert {each.name for each in out.iterdir()} == {"a.txt", "below"}
    monkeypatch.undo()
    write()
    assert contents(out) == dict.fromkeys((*before, "deep/er/c.txt"), "new")


@pytest.mark.parametrize("hard_links", [True, False])
def test_files_that_have_arrived_leave_again_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    """What they replaced comes back, whether it was set aside as a hard link or as a copy."""
    if not hard_links:
        refuses_hard_links(monkeypatch)
    (tmp_path / "b.txt").write_text("old")
    replace = Path.replace

    def fails(path: Path, target: Path) -> Path:
        if target.name == "c.txt":
            assert contents(tmp_path) | {"a.txt": "new", "b.txt": "new"} == contents(tmp_path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    def write() -> None:
        with files_together(tmp_path, "the figures") as partial:
            for name in "abc":
                (partial / f"{name}.txt").write_text("new")

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(UserError, match="No space left"):
        write()
    assert contents(tmp_path) == {"b.txt": "old"}


def test_an_error_about_one_of_several_files_names_its_final_place(tmp_path: Path) -> None:
    def write() -> None:
        with files_together(tmp_path, "the figures") as partial:
            (partial / "below").mkdir()
            with replacing(partial / "below", "the table") as table:
                table.write_text("a file in place of a folder")

    with pytest.raises(UserError, match=f"^{re.escape(str(tmp_path))}/below: the table could not be written: "):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_command_creates_at_the_same_time_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir = Path.mkdir

    def overtaken(path: Path) -> None:
        if path.name == "shared":
            mkdir(path)
        mkdir(path)

    monkeypatch.setattr(Path, "mkdir", overtaken)
    with ExitStack() as undo:
        make_folders(tmp_path / "shared" / "own", undo)
        assert (tmp_path / "shared" / "own").is_dir()
    assert list(tmp_path.rglob("*")) == [tmp_path / "shared"]


def test_without_a_temporary_folder_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with (
        pytest.raises(
            UserError, match=f"^{re.escape(str(tmp_path))}/none: no temporary folder: No such file or directory$"
        ),
        scratch_folder(),
    ):
        raise AssertionError("entered")


def test_a_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process: int, number: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refused)
    assert is_alive(1)


def test_folders_within_a_folder_arrive_too(tmp_path: Path) -> None:
    with new_folder(tmp_path / "results", "results") as partial:
        (partial / "below").mkdir()
        (partial / "below" / "a.txt").write_text("deep")
    assert (tmp_path / "results" / "below" / "a.txt").read_text() == "deep"


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "below", tmp_path / "file" / "below" / "deeper"):
        for made in (replacing(path, "it"), new_folder(path, "it")):
            with pytest.raises(UserError, match=r"^[^\n]*: it could not be written: [^\n]*$"), made:
                raise AssertionError("entered")
    with pytest.raises(UserError, match="could not be written"), replacing(tmp_path, "it") as partial:
        partial.write_text("a file in place of a folder")


WRITER = """
import sys
from pathlib import Path
from common.files import new_folder, replacing
path, letter = Path(sys.argv[1]), sys.argv[2]
with (new_folder if path.suffix == "" else replacing)(path, "it") as partial:
    (partial / "a.txt" if partial.is_dir() else partial).write_text(letter * 10000)
    print("written", flush=True)
    sys.stdin.readline()
"""


def writer_of(path: Path, letter: str) -> "subprocess.Popen[str]":
    """A process that has written all of it and waits for a line before it is done."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), letter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    return writer


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for writer in [writer_of(path, letter) for letter in "ab"]:
        writer.communicate("go\n", timeout=120)
        assert writer.returncode == 0
    assert path.read_text() == "b" * 10000
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_never_takes_the_place_of_another(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"

    def overtaken() -> None:
        with new_file(path, "it") as partial:
            partial.write_text("mine")
            path.write_text("of another process, which was faster")

    for _ in range(2):  # afterwards, and before
        with pytest.raises(
            UserError, match=r"a\.txt exists already; choose another name, or replace it with `overwrite`$"
        ):
            overtaken()
        assert path.read_text() == "of another process, which was faster"
        assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_appears_on_file_systems_without_hard_links_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuses_hard_links(monkeypatch)
    path = tmp_path / "a.txt"
    with new_file(path, "it") as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EEXIST])
def test_a_new_file_that_gets_no_name_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The second error: another process's file was there at that moment, and is gone again."""
    refuses_hard_links(monkeypatch, number)
    with (
        pytest.raises(UserError, match=f"/a.txt: it could not be written: {os.strerror(number)}$"),
        new_file(tmp_path / "a.txt", "it") as partial,
    ):
        partial.write_text("whole")
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_make_one_folder_the_first_wins(tmp_path: Path) -> None:
    path = tmp_path / "results"
    first, second = (writer_of(path, letter) for letter in "ab")
    first.communicate("go\n", timeout=120)
    _, said = second.communicate("go\n", timeout=120)
    assert (first.returncode, second.returncode) == (0, 1)
    assert said.splitlines()[-1].endswith(f"{path} exists already; choose another name, or replace it with `overwrite`")
    assert (path / "a.txt").read_text() == "a" * 10000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.txt", "results"])
def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, name: str) -> None:
    writer = writer_of(tmp_path / name, "a")
    writer.send_signal(signal.SIGINT)
    writer.communicate(timeout=120)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.txt", "results"])
def test_leftovers_of_a_killed_writer_are_removed_by_the_next(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    writer = writer_of(path, "a")
    writer.kill()
    writer.communicate(timeout=120)
    assert not path.exists()
    assert len(list(tmp_path.iterdir())) == 1
    writer_of(path, "b").communicate("go\n", timeout=120)
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    writer = writer_of(path, "a")
    writer.kill()
    writer.communicate(timeout=120)
    assert path.read_text() == "before"

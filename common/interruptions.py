"""Ctrl-C, SIGTERM and SIGHUP: a command unwinds, leaves nothing half-written behind and says one line.

A signal raises an `Interruption` in the main thread, but not during an import: there, libraries print tracebacks of
their own or swallow the exception. While a command still loads its libraries, a signal undoes what is registered with
`undone` and ends the process. Once it works, within `unwound`, a signal during an import waits until that has ended.

Programs import this module first, so it imports little itself.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Literal, NoReturn, TypeAlias

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LATER_S = 0.05  # until a signal that arrived during an import is looked at again
_REPEAT_S = 1.0  # a signal so soon after another is ignored: a key is held down, or a whole group is signalled
_IMPORTS = "<frozen importlib._bootstrap>"

Resumes: TypeAlias = Literal["always", "once kept", "never"]
"""Whether the same command, after an interruption, goes on where it stopped; once kept: from a call of `kept` on."""


class Interruption(KeyboardInterrupt):
    """A signal that ends the command."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that a shell reports for a process killed by the signal."""
        return 128 + self.number

    @property
    def line(self) -> str:
        """What the user reads."""
        how = "interrupted" if self.number == signal.SIGINT else f"ended by {signal.Signals(self.number).name}"
        return f"{how}; {_state.advice()}"


@contextmanager
def interruptible(*, resumes: Resumes = "never") -> Iterator[None]:
    """Within the block a signal raises an `Interruption`, unless the process ignores that signal.

    The interruption's line says whether the command `resumes`.

    Any error that leaves the block after a signal becomes the `Interruption`, whatever libraries made of it. Only the
    main thread receives signals; in another thread the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    hook = sys.unraisablehook
    _state.begin(resumes=resumes)
    _state.active = True
    sys.unraisablehook = lambda error: _raise_again(error.exc_value) or hook(error)
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _arrived)
    try:
        yield
    except BaseException as error:
        if _state.raised and error is not _state.raised:
            raise _state.raised from error
        raise
    finally:
        _state.active = False
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undone(undo: Callable[[], object]) -> Iterator[None]:
    """Call `undo` when the block ends, and also if a signal ends the process at once; errors of the system pass."""
    _state.undoing.append(undo)
    try:
        yield
    finally:
        _state.undoing.remove(undo)
        with suppress(OSError):
            undo()


def kept(*, restarted: bool) -> None:
    """Note that finished work was kept: the same command resumes it, unless it is given --restart again."""
    if _state.resumes == "once kept":
        _state.resumes, _state.restarted = "always", restarted


def to_resume() -> str | None:
    """How to resume the running command; None if it keeps nothing, or has kept nothing yet."""
    if _state.resumes != "always":
        return None
    return f"run the same command again{' without --restart' * _state.restarted} to resume"


@contextmanager
def unwound() -> Iterator[None]:
    """Within the block no signal ends the process at once, since only unwinding cleans up."""
    _state.blocks += 1
    try:
        yield
    finally:
        _state.blocks -= 1


def end(status: int) -> NoReturn:
    """Exit the process. A signal during the interpreter's own clean-up kills it silently: everything is written."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    sys.exit(status)


class _State:
    """What the handlers know; one per process, as is the table of signals."""

    def __init__(self) -> None:
        self.active = False
        self.blocks = 0  # of `unwound` that have been entered
        self.undoing: list[Callable[[], object]] = []
        self.begin()

    def begin(self, *, resumes: Resumes = "never") -> None:
        self.resumes = resumes
        self.restarted = False
        self.raised: Interruption | None = None
        self.raised_at = -_REPEAT_S

    def advice(self) -> str:
        return to_resume() or ("nothing new was kept" if self.resumes == "once kept" else "nothing was kept")


_state = _State()


def _arrived(number: int, frame: FrameType | None) -> None:
    if time.monotonic() - _state.raised_at < _REPEAT_S:
        return
    if not _in_import(frame):
        _state.raised, _state.raised_at = Interruption(number), time.monotonic()
        raise _state.raised
    if _state.blocks:
        _send_later(number)
        return
    interruption = Interruption(number)
    for undo in reversed(_state.undoing):
        with suppress(OSError):
            undo()
    os.write(2, f"{interruption.line}\n".encode())
    os._exit(interruption.status)


def _in_import(frame: FrameType | None) -> bool:
    while frame:
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False


def _send_later(number: int) -> None:
    def send() -> None:
        if _state.active:
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    timer = threading.Timer(_LATER_S, send)
    timer.daemon = True
    timer.start()


def _raise_again(error: BaseException | None) -> bool:
    """Whether this is an `Interruption` that Python swallowed, in a finaliser for example; if so, it comes again."""
    if not isinstance(error, Interruption):
        return False
    _state.raised_at = -_REPEAT_S
    _send_later(error.number)
    return True

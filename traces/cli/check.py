"""`finemoe traces check`: verify that a trace is complete and valid."""

import sys
from pathlib import Path

from common.errors import FieldError


def check(trace: Path, /, *, max_problems: int = 100) -> int:
    """Verify every hash and every row of a trace. The exit status is 2 if anything is wrong.

    Parameters
    ----------
    trace
        Trace to verify: a folder NAME.trace.
    max_problems
        Print at most N problems.
    """
    if max_problems < 1:
        raise FieldError("max_problems", f"must be at least 1, not {max_problems}")
    from traces.format.checks import outcome, problems

    count = 0
    for count, line in enumerate(problems(trace), start=1):
        if count > max_problems:
            print(f"{trace}: there are more problems; --max-problems {2 * max_problems} shows more", file=sys.stderr)
            return 2
        print(line, file=sys.stderr)
    if count:
        return 2
    print(outcome(trace))
    return 0

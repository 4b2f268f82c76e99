"""`finemoe traces check`: whether a trace is whole."""

import sys
from pathlib import Path

from common.errors import FieldError


def check(trace: Path, /, *, limit: int = 100) -> int:
    """Verify every hash and every row of a trace. The exit status is 2 if anything is wrong.

    Parameters
    ----------
    trace
        The folder NAME.trace.
    limit
        Print at most N problems.
    """
    if limit < 1:
        raise FieldError("limit", f"must be at least 1, value {limit}")
    from traces.format.checks import outcome, problems

    count = 0
    for count, line in enumerate(problems(trace), start=1):
        if count > limit:
            print(f"{trace}: there are more problems; --limit {2 * limit} shows more", file=sys.stderr)
            return 2
        print(line, file=sys.stderr)
    if count:
        return 2
    print(outcome(trace))
    return 0

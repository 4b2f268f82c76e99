"""`python -m traces info`: what is in a trace."""

import json as json_text
from pathlib import Path


def info(trace: Path, /, *, json: bool = False) -> None:
    """Show what is in a trace.

    Parameters
    ----------
    trace
        The folder NAME.trace.
    json
        Print JSON, for programs.
    """
    from traces.format.description import summary, table
    from traces.format.reader import Trace

    opened = Trace.open(trace)
    print(json_text.dumps(summary(opened), indent=1, ensure_ascii=False) if json else table(opened))

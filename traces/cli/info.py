"""`finemoe traces info`: describe a trace."""

import json as json_text
from pathlib import Path


def info(trace: Path, /, *, json: bool = False) -> None:
    """Describe a trace: its model, requests, columns, naturalness and origin.

    Parameters
    ----------
    trace
        Trace to describe: a folder NAME.trace.
    json
        Print JSON instead of a table.
    """
    from traces.analysis import naturalness_report
    from traces.analysis.naturalness import naturalness_of, warning
    from traces.format.description import summary, table
    from traces.format.reader import Trace

    opened = Trace.open(trace)
    found = naturalness_of(opened).to_data()
    caution = warning(found, opened.meta.generation)
    if json:
        whole = summary(opened) | {"naturalness": found, "warning": caution}
        print(json_text.dumps(whole, indent=1, ensure_ascii=False))
    else:
        first, *others = naturalness_report.lines(found, caution)
        print(table(opened, [("naturalness", first), *(("", line) for line in others)]))

"""`finemoe traces arrivals`: describe, sample or generate a workload."""

import json as json_module
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from common.applications import OUTPUT, under
from traces.workloads.workload_settings import ArrivalSettings, WorkloadTarget

if TYPE_CHECKING:
    from traces.workloads.arrivals import Workload

WORKLOAD = Group("Workload", sort_key=1)


def arrivals(
    settings: Annotated[ArrivalSettings, under(WORKLOAD)],
    *,
    target: Annotated[WorkloadTarget, under(OUTPUT)] = WorkloadTarget(),
    json: Annotated[bool, Parameter(group=OUTPUT)] = False,
) -> None:
    """Show the arrival rates and lengths of a workload, and optionally write and plot it.

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    from common.outputs import picture, reserved, then_printed
    from common.outputs import table as table_output

    with reserved(
        table_output(target.out, "arrival_s"), picture(target.plot), overwrite=target.overwrite, inputs=[settings.file]
    ):
        from traces.workloads.arrivals import describe
        from traces.workloads.drawn_workload import chosen_workload, provenance_of

        workload = chosen_workload(settings)

        def text() -> str:
            return json_module.dumps(describe(workload), indent=1) if json else table(workload)

        with then_printed(text, target.out, target.plot, quiet=json):
            if target.out:
                from traces.workloads.workload_files import write_workload

                write_workload(target.out, workload, provenance_of(settings))
            if target.plot:
                from traces.workloads.workload_figure import draw_workload

                draw_workload(workload, target.plot)


def table(workload: "Workload") -> str:
    """Table of the rates and lengths of a workload."""
    from common.tables import name_table, text_table
    from traces.workloads.arrivals import describe

    found = describe(workload)
    rate, spread = found["rate_per_s"], found["gap_cv"]
    head = [
        ("workload", found["source"]),
        ("requests", f"{found['requests']:,}"),
        ("dropped", f"{found['dropped']:,} without prompt or output" if found["dropped"] else None),
        ("duration", f"{found['duration_s']:,.1f} s"),
        ("mean rate", "all at once" if rate is None else f"{rate:.3f} requests/s"),
        ("peak rate", f"{found['peak_per_minute']:,} requests in a minute"),
        ("gaps", None if spread is None else f"coefficient of variation {spread:.2f} (Poisson: 1)"),
    ]
    lengths = [
        (f"{name} [tokens]", *(f"{found[f'{name}_tokens'][what]:,.0f}" for what in ("mean", "p50", "p95", "max")))
        for name in ("prompt", "output")
    ]
    top = name_table([line for line in head if line[1] is not None])
    columns = ("", "mean", "p50", "p95", "max")
    return f"{top}\n\n{text_table(lengths, columns)}"

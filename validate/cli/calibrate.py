"""`finemoe validate calibrate`: measure this machine for a model, as a profile to simulate with."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from common.applications import FLAT, OVERWRITE
from common.settings import check_suffix
from validate.testbed_settings import CalibrationSettings, TestbedSettings


def calibrate(
    testbed: Annotated[TestbedSettings, FLAT],
    *,
    out: Annotated[Path, Parameter(help="Profile to write: FILE.toml.")],
    overwrite: Annotated[bool, Parameter(help=OVERWRITE.help)] = False,
    settings: Annotated[CalibrationSettings | None, FLAT] = None,
) -> None:
    """Measure this machine with a model, write a profile, and print its main figures.

    `finemoe sim run --machine FILE.toml` simulates with it.
    """
    check_suffix("out", out, ".toml")
    from common.outputs import file, reserved, then_printed
    from sim.hardware.profile import read_profile, write_profile

    with reserved(file(out, reads=read_profile), overwrite=overwrite):
        from validate.calibration.machine_profile import calibrate as measure
        from validate.calibration.machine_profile import summary

        profile = measure(testbed, settings or CalibrationSettings())
        with then_printed(lambda: summary(profile)):
            write_profile(out, profile)
        print(out)

"""Which machine a text names."""

from pathlib import Path

from common.toml_files import read_toml
from sim.hardware import presets, profile
from sim.hardware.machine import Machine


def machine_named(text: str) -> Machine:
    """A preset by its name, or what is in a file whose name ends in `.toml`: a data sheet, or a measured profile.

    The kind is the one with more keys of its own; shared keys do not count.
    """
    if not text.endswith(".toml"):
        return presets.preset(text)
    path = Path(text)
    keys = read_toml(path).keys()
    of_profile, of_sheet = keys & profile.KEYS, keys & set(presets.KEYS)
    if len(of_profile - of_sheet) > len(of_sheet - of_profile):
        return profile.read_profile(path)
    return presets.read_data_sheet(path)

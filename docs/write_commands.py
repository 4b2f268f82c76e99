"""Write docs/commands.md: what `--help` says of every command. `make docs` runs this."""

import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from common.console import PACKAGES, main

COMMANDS = Path(__file__).with_name("commands.md")
WIDTH = 100  # of the help, whatever the terminal
HEAD = """# Commands

Every command with its options, as `--help` shows them. `make docs` writes this file from the program.
`python -m sim …` does the same as `finemoe sim …`, and so do `python -m traces` and `python -m validate`.
A repeated option replaces the earlier value, or adds to a list.

`--overwrite` replaces an existing output only if it is of the same kind, even if it was edited since: a trace, results
(`run`, `replay`), a sweep (`sweep`, `whatif`), an analysis, rates, a table of this kind, a picture drawn by this
project, a scenario or a profile. Links and the command's own inputs are never replaced. `comparison`, `anchors` and
`paper` are exceptions: they replace any file that has the name of one of their outputs.

The exit status is 0 for success, 2 for a mistake in the input (one line on stderr names it) and 130 after Ctrl-C. Where
a command ends with 1, its help says when.

"""


def helped(words: str) -> str:
    """What `finemoe … --help` prints, without the blanks that fill lines up."""
    text = StringIO()
    with patch.dict(os.environ, {"COLUMNS": str(WIDTH)}), redirect_stdout(text):
        main([*words.split(), "--help"])
    return "\n".join(line.rstrip() for line in text.getvalue().strip("\n").splitlines())


def commands(package: str) -> Iterator[str]:
    """The words of a package, its commands and their own commands, in the order of the help."""
    yield package
    for name, command in import_module(f"{package}.__main__").COMMANDS.items():
        yield f"{package} {name}"
        module, function = command.function.split(":")
        if function == "app":  # has commands of its own
            yield from (f"{package} {name} {each}" for each in import_module(module).app if not each.startswith("-"))


def document() -> str:
    """The text of docs/commands.md."""
    contents, parts = ["- [finemoe](#finemoe)\n"], [f"\n## finemoe\n\n```\n{helped('')}\n```\n"]
    for package in PACKAGES:
        _, *below = names = [f"finemoe {words}" for words in commands(package)]
        links = ", ".join(f"[{name.split(' ', 2)[2]}](#{name.replace(' ', '-')})" for name in below)
        contents.append(f"- [finemoe {package}](#finemoe-{package}): {links}\n")
        for name in names:
            level = "###" if name in below else "##"
            parts.append(f"\n{level} {name}\n\n```\n{helped(name.removeprefix('finemoe '))}\n```\n")
    return "".join([HEAD, *contents, *parts])


if __name__ == "__main__":
    COMMANDS.write_text(document())

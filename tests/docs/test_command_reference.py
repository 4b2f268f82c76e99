"""docs/commands.md shows every command as its `--help` does."""

from docs.write_commands import COMMANDS, document


def test_the_reference_is_what_help_says() -> None:
    assert COMMANDS.read_text() == document(), "run `make docs`"

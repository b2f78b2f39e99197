"""What commands share: times as options, failures in words and exit codes, who asks."""

import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from streams.errors import ConfigurationError, LoyaltyError

EXIT_CONFIGURATION = 2


class Instant(click.ParamType):
    """A day, which is its midnight in UTC, or a time with its offset -> milliseconds since 1970."""

    name = "time"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> int:
        from streams.history import instant_ms  # It needs HTTP's client, and `--help` does not.

        try:
            return instant_ms(value)
        except ValueError as error:
            self.fail(f"{value!r} is no time like 2026-11-25T12:00:00Z, nor a date like 2026-11-25: {error}", parameter, context)


@contextmanager
def failures_told(command: str, exit_failed: int = 1) -> Iterator[None]:
    """Exit code 2 for a configuration that must be mended, `exit_failed` for any other failure; standard error says what it is."""
    try:
        yield
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(f"loyalty {command}: {problem}", err=True)
        sys.exit(EXIT_CONFIGURATION)
    except (LoyaltyError, OSError) as error:
        click.echo(f"loyalty {command}: {error}", err=True)
        sys.exit(exit_failed)


def user() -> str:
    """Whose command it is, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user need not have a name.
        return "unknown"

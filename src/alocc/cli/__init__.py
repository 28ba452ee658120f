"""The command line: parse, make one call, print. Heavy libraries load inside the commands, so ``--help`` is quick."""

from __future__ import annotations

import sys
import warnings

from alocc.errors import AloccError, InputError, StoppedError, UselessDetectorWarning
from alocc.streams import standard_streams


def main() -> None:
    """Run ``alocc``.

    Exit code 0 for success, 2 for bad input, 1 for a failure; 130 after Ctrl-C, 143 after SIGTERM.
    """
    warnings.filterwarnings("ignore", module="PIL")  # an image that cannot be used is named; oddities of others are not
    warnings.filterwarnings("ignore", category=UselessDetectorWarning)  # the commands say it in a line
    try:
        with standard_streams():
            sys.exit(_exit_code())
    except KeyboardInterrupt:
        sys.exit(130)
    except StoppedError as error:
        from alocc.cli.console import print_note

        print_note(f"{error}; the same command goes on")
        sys.exit(error.exit_code)
    except AloccError as error:
        from alocc.cli.console import print_error

        print_error(str(error))
        sys.exit(2 if isinstance(error, InputError) else 1)


def _exit_code() -> int:
    """Of the command that is asked for; wrong words on the command line are one line."""
    import typer

    from alocc.cli.app import app  # here, as Ctrl-C may come while it loads
    from alocc.cli.console import print_error
    from alocc.cli.options import USAGE_ERROR, usage_text

    try:
        return app(prog_name="alocc", standalone_mode=False) or 0
    except USAGE_ERROR as error:
        if message := usage_text(error):
            print_error(message)
        return 2
    except typer.Abort:  # Ctrl-C outside of what saves
        return 130

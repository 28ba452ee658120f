"""The command line: parse, make one call, print. Heavy libraries load inside the commands, so ``--help`` is quick."""

from __future__ import annotations

import io
import os
import sys
import warnings

from alocc.cli.app import app
from alocc.cli.console import print_error, print_note
from alocc.errors import AloccError, InputError, StoppedError


def main() -> None:
    """Run ``alocc``. Exit code 0 for success, 2 for bad input, 1 for a failure, 130 if interrupted."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # see docs/decisions/0009; read when torch is loaded
    warnings.filterwarnings("ignore", module="PIL")  # an image that cannot be used is named; oddities of others are not
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    try:
        app(prog_name="alocc")
    except InputError as error:
        print_error(str(error))
        sys.exit(2)
    except StoppedError as error:
        print_note(f"{error}; the same command goes on from there")
        sys.exit(130)
    except AloccError as error:
        print_error(str(error))
        sys.exit(1)

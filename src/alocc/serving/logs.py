"""What happened, as JSON lines: one a request, without its query, its body, its token or what an image shows.

A file that another program moves away (logrotate) is opened anew; one that cannot be written never stops an answer.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from alocc.errors import ConfigError

LONGEST = 300
"""Characters of a text in a line; of the trace of an error there may be as many as there are."""


class _Quiet(WatchedFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's own name)
        """A full disk is seen by /readyz."""


class Log:
    """Lines of JSON, each with ``time`` (UTC) and ``event``; safe to use from any thread."""

    def __init__(self, path: Path | None = None) -> None:
        """Open.

        Args:
            path: file that lines are added to; none: only failures are written, to standard error.

        Raises:
            ConfigError: if the file cannot be written.
        """
        self._logger = logging.Logger("alocc.serving", logging.INFO if path else logging.ERROR)
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        if path:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                handler = _Quiet(path, encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"--json-log {path} cannot be written ({error.strerror or error})") from None
        self._logger.addHandler(handler)

    def note(self, event: str, **fields: Any) -> None:
        """Write a line; a field that is ``None`` is left out."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info("%s", _line(event, fields))

    def failure(self, event: str, error: BaseException, **fields: Any) -> None:
        """Write a line of something that nobody foresaw, with where in the code it was."""
        trace = "".join(traceback.format_exception(error))
        self._logger.error("%s", _line(event, fields, {"error": type(error).__name__, "trace": trace}))

    def close(self) -> None:
        """Let go of the file."""
        for handler in self._logger.handlers:
            handler.close()


def _line(event: str, fields: Mapping[str, Any], whole: Mapping[str, Any] | None = None) -> str:
    """A line of ASCII: what a terminal or a reader of lines would obey is written as an escape."""
    short = {name: _shortened(value) for name, value in fields.items() if value is not None}
    return json.dumps({"time": datetime.now(UTC).isoformat(), "event": event, **short, **(whole or {})}, default=str)


def _shortened(value: Any) -> Any:
    return f"{value[:LONGEST]}…" if isinstance(value, str) and len(value) > LONGEST else value

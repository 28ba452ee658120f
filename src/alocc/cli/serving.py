"""From options to a server."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from alocc.config import in_words
from alocc.errors import ConfigError

if TYPE_CHECKING:
    from alocc.serving.settings import Limits, Settings

TOKEN = "ALOCC_TOKEN"
"""Variable that may hold the token, instead of a file."""
LIBRARIES = ("fastapi", "uvicorn", "httptools", "multipart", "sqlalchemy", "alembic", "prometheus_client", "httpx")
"""Of the extra ``serve``."""


def check_libraries() -> None:
    """Refuse, with a ConfigError that says what to install, where the server's libraries are missing."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"alocc serve needs {', '.join(missing)}; install with, in the clone: pip install '.[serve]'")


def named_models(words: Sequence[str]) -> dict[str, Path]:
    """Names and paths of models: NAME=PATH, or a path, whose last part is the name.

    Raises:
        ConfigError: if two have the same name, or one has a name that an address cannot have.
    """
    models: dict[str, Path] = {}
    for word in words:
        name, given, path = word.partition("=")
        if not given or "/" in name or "\\" in name:
            name, path = "", word
        name = name or _name_of(Path(path))
        if name in models:
            raise ConfigError(f"two models are called {name}; name one of them: NAME={path}")
        models[name] = Path(path)
    return models


def _name_of(path: Path) -> str:
    """That of a file without its suffix, or of a run folder; in letters that an address can have."""
    resolved = path.resolve()
    stem = resolved.stem if resolved.suffix in (".safetensors", ".onnx", ".xml") else resolved.name
    if stem == "model":
        stem = resolved.parent.name or stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "model"


def named_limits(words: Sequence[str]) -> Limits:
    """Limits, of which some are given as NAME=VALUE.

    Raises:
        ConfigError: if there is no such limit, or it cannot have that value.
    """
    from alocc.serving.settings import Limits

    given = dict(word.partition("=")[::2] for word in words)
    if len(given) < len(words):
        raise ConfigError("--limit: one of them is given twice")
    if unknown := [name for name in given if name not in Limits.model_fields]:
        raise ConfigError(f"--limit {unknown[0]}: there is no such limit; there are {', '.join(Limits.model_fields)}")
    try:
        return Limits.model_validate(given)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"--limit {problem['loc'][0]} {in_words(problem)}, got {problem['input']!r}") from None


def read_token(file: Path | None, *, no_token: bool) -> str | None:
    """What clients must know: of the file, or the environment; none if there is neither.

    Raises:
        ConfigError: if the file cannot be read, or ``--no-token`` contradicts it.
    """
    token = _of_file(file) if file else os.environ.get(TOKEN, "").strip() or None
    if token and no_token:
        raise ConfigError(f"--no-token contradicts {'--token-file' if file else TOKEN}; leave one of them out")
    return token


def _of_file(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--token-file {file} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not token:
        raise ConfigError(f"--token-file {file} is empty")
    return token


def settings_of(**values: Any) -> Settings:
    """The settings that these options mean.

    Raises:
        ConfigError: if one of them has a value that it cannot have.
    """
    from alocc.serving.settings import Settings

    try:
        return Settings(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        option = str(problem["loc"][-1]).replace("_", "-")
        raise ConfigError(f"--{option} {in_words(problem)}, got {problem['input']}") from None

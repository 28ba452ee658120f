"""From options to a server."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from alocc.errors import ConfigError

TOKEN = "ALOCC_TOKEN"
"""Variable that may hold the token, instead of a file."""
SHORTEST = 16
"""Characters of a token: shorter ones can be guessed."""
MISSING = "alocc serve needs more libraries; install them with: pip install 'alocc[serve]'"


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


def read_token(file: Path | None, host: str, *, no_token: bool) -> str | None:
    """What clients must know: of the file, or the environment; none if nothing is asked for.

    Raises:
        ConfigError: if other machines could come in without a token, and nobody said that they may.
    """
    token = _of_file(file) if file else os.environ.get(TOKEN, "").strip() or None
    if token and no_token:
        raise ConfigError(f"--no-token contradicts {'--token-file' if file else TOKEN}; leave one of them out")
    if token and not (len(token) >= SHORTEST and token.isascii() and token.isprintable() and " " not in token):
        raise ConfigError(f"a token must have {SHORTEST} characters or more, ASCII without spaces")
    if token is None and not no_token and not _is_loopback(host):
        raise ConfigError(
            f"--host {host} can be reached by other machines: give --token-file FILE, or {TOKEN} in the environment; "
            "--no-token lets everybody in"
        )
    return token


def _of_file(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--token-file {file} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not token:
        raise ConfigError(f"--token-file {file} is empty")
    return token


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Names → engines that are loaded, and loaded anew when their files are replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from alocc.detector import artefact_path
from alocc.errors import AloccError, ConfigError, UnknownModelError
from alocc.scoring.open import is_exported, open_engine
from alocc.scoring.stream import Engine
from alocc.serving.settings import Settings
from alocc.storage import digest
from alocc.training.folds import on_device
from alocc.verdict import HEALTH_FILE

Stamp = tuple[tuple[int, int, int] | None, ...]
"""When, how large and which file each of a model's files was; none for one that is not there."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A detector that scores."""

    name: str
    path: Path
    """The run folder or file that the settings name."""
    version: str
    """First 12 hex digits of the SHA-256 of the detector's file."""
    engine: Engine
    loaded_at: datetime
    """UTC."""

    @property
    def run_folder(self) -> Path:
        """Where its curves and report are, if there are any."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def has_maps(self) -> bool:
        """Whether it says where images are unusual."""
        return self.engine.map_maxima is not None

    @property
    def preset(self) -> str:
        """That of its training."""
        config = getattr(self.engine, "config", None)
        if config is not None:
            return str(config.preset)
        metadata = getattr(self.engine, "metadata", {})
        return str(metadata.get("config", {}).get("preset", ""))


class Models:
    """The detectors of a server. Any thread may ask; one at a time loads.

    Args:
        settings: which, and how they compute.
        note: told what is done that takes long.

    Raises:
        ArtefactError, ConfigError: if one cannot be loaded, or does not support the alpha that is asked for.
    """

    def __init__(self, settings: Settings, note: Callable[[str], None] = lambda _: None) -> None:
        if not settings.models:
            raise ConfigError("give at least one run folder or detector's file to serve")
        self._settings, self._note = settings, note
        self._loading = threading.Lock()
        self._stamps: dict[str, Stamp] = {}
        self._problems: dict[str, str] = {}
        self._loaded: dict[str, Loaded] = {}
        for name, path in settings.models.items():
            self._stamps[name] = _stamp(path)
            self._loaded[name] = self._load(name, path)

    def get(self, name: str | None = None) -> Loaded:
        """The model of that name; none: the first.

        Raises:
            UnknownModelError: if there is none.
        """
        if name is None:
            return next(iter(self._loaded.values()))
        if (loaded := self._loaded.get(name)) is None:
            raise UnknownModelError(f"there is no model {name[:80]!r}; there is {', '.join(self._loaded)}")
        return loaded

    def all(self) -> list[Loaded]:
        """All of them, in the order of the settings."""
        return list(self._loaded.values())

    def problem(self, name: str) -> str | None:
        """Why a newer file of a model is not used; none if there is no such file."""
        return self._problems.get(name)

    def reload(self) -> list[str]:
        """Load what was replaced since, and say in a line each what changed, or why a new file is not used."""
        with self._loading:
            return [line for name, path in self._settings.models.items() for line in self._reload(name, path)]

    def _reload(self, name: str, path: Path) -> list[str]:
        stamp = _stamp(path)
        if stamp == self._stamps[name]:
            return []
        self._stamps[name] = stamp  # a file that is still written has another one when it is whole
        try:
            loaded = self._load(name, path)
        except AloccError as error:
            self._problems[name] = _without_folders(str(error), path)
            return [f"model {name}: {self._problems[name]}; the one that is loaded goes on"]
        self._problems.pop(name, None)
        self._loaded[name] = loaded
        return [f"model {name}: version {loaded.version} is loaded"]

    def _load(self, name: str, path: Path) -> Loaded:
        settings = self._settings
        rates = {"alpha": settings.alpha, "review_alpha": settings.review_alpha}
        opened = open_engine(path, settings.engine, note=self._note, maps=True, **rates)
        engine = on_device(opened, settings.device)
        version = digest(path if is_exported(path) else artefact_path(path))[:12]
        height, width, channels = engine.image_format
        engine.score(np.zeros((1, height, width, channels), np.uint8))  # what fails, fails before anybody relies on it
        return Loaded(name, path, version, engine, datetime.now(UTC))


def _stamp(path: Path) -> Stamp:
    files = [path, path.with_suffix(".bin")] if is_exported(path) else _files_of_detector(path)
    return tuple(map(_stamp_of_file, files))


def _files_of_detector(path: Path) -> list[Path]:
    file = path / "model.safetensors" if path.is_dir() else path
    return [file, file.with_name(HEALTH_FILE)]


def _stamp_of_file(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _without_folders(message: str, path: Path) -> str:
    """A message that may leave the machine: it names files, not where they lie."""
    return message.replace(f"{path.parent}/", "").replace(str(path.parent.resolve()), "")

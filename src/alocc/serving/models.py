"""Names → engines that are loaded, and loaded anew when their files are replaced."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from alocc.detector import artefact_path
from alocc.errors import AloccError, ArtefactError, ConfigError, UnknownModelError
from alocc.scoring.open import is_exported, open_engine
from alocc.scoring.stream import Engine
from alocc.serving.settings import Settings
from alocc.storage import digest
from alocc.training.folder import MARK, RunFolder
from alocc.training.folds import on_device
from alocc.verdict import HEALTH_FILE

RETRY = 60.0
"""Seconds after which a file that could not be loaded is tried again: it may have been the machine's fault."""
WENT_WRONG = "its new file cannot be loaded; the server's log says why"
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
    run_folder: Path | None
    """Where its curves and report are; none if its file lies anywhere else."""

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
        self._failed: dict[str, float] = {}
        """When the newest file of a model could not be loaded, where it could not."""
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

    def reload(
        self,
        prepare: Callable[[Loaded], object] = lambda _: None,
        fail: Callable[[Exception], None] = lambda _: None,
    ) -> list[str]:
        """Load what was replaced since, and say in a line each what changed, or why a new file is not used.

        Args:
            prepare: told of each before it is used; it is not used yet if that fails.
            fail: told of errors that nobody foresaw.
        """
        with self._loading:
            models = self._settings.models.items()
            return [line for name, path in models for line in self._reload(name, path, prepare, fail)]

    def _reload(
        self, name: str, path: Path, prepare: Callable[[Loaded], object], fail: Callable[[Exception], None]
    ) -> list[str]:
        stamp = _stamp(path)
        if stamp == self._stamps[name] and time.monotonic() < self._failed.get(name, math.inf) + RETRY:
            return []
        self._stamps[name] = stamp  # a file that is still written has another one when it is whole
        before = self._problems.get(name)
        try:
            loaded = self._load(name, path)
            prepare(loaded)
        except Exception as error:  # out of memory, a fault of a library: the one that is loaded goes on
            self._failed[name] = time.monotonic()
            if not isinstance(error, AloccError):
                fail(error)
            problem = _without_folders(str(error), path) if isinstance(error, AloccError) else WENT_WRONG
            self._problems[name] = problem
            return [] if problem == before else [f"model {name}: {problem}; the one that is loaded goes on"]
        self._problems.pop(name, None), self._failed.pop(name, None)
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
        return Loaded(name, path, version, engine, datetime.now(UTC), _run_folder(path, engine))


def _run_folder(path: Path, engine: Engine) -> Path | None:
    """The run folder that a path is, or lies in: other folders may have a report of something else."""
    if path.is_dir():
        return path
    run = RunFolder(path.parent)
    try:
        if not MARK.search(run.config.read_bytes()):
            return None
        made_from = getattr(engine, "metadata", {}).get("made_from") if is_exported(path) else digest(path)
        return run.root if made_from == digest(run.model) else None
    except (OSError, ArtefactError):  # it has no config, or no detector
        return None


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

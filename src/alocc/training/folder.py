"""The files of one training: where they are, and which of them may be removed."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from alocc.config import Config, dump_config
from alocc.detector import Detector, artefact_path
from alocc.errors import ArtefactError
from alocc.storage import TEMPORARY, digest, load_tensors, lock, replacing, write_text
from alocc.training.history import Row, history_csv
from alocc.verdict import HEALTH_FILE

EXPORTS = tuple(f"model{kind}{suffix}" for kind in ("", "-int8") for suffix in (".onnx", ".xml", ".bin"))
FILES = ("model.safetensors", *EXPORTS, "report.html", HEALTH_FILE, "run.json", "history.csv", "mlflow-run.txt")
"""What a run folder holds beside config.toml and checkpoints, in the order in which it is removed."""
VERSION = re.compile(r"([1-9]\d*)\.safetensors")
EVENTS = re.compile(r"events\.out\.tfevents\..+")
CHECKPOINT = re.compile(r"(last|fold\d+)(-previous)?\.safetensors")
MARK = re.compile(rb"^# images [0-9a-f]{64}\n\Z", re.MULTILINE)
"""The last line of a run's config.toml: what says that a folder is a run's."""


class Version(NamedTuple):
    """A detector that a run has, or had."""

    version: int | None
    """Its number; none for the one in use."""
    date: str
    """When its file was written, ISO 8601."""
    threshold: float
    alpha: float
    n_held_out: int
    """Normal images that set the threshold."""
    calibrated_on: str | None
    """Where these are from; none: from the training."""
    review_alpha: float | None = None
    """Up to which images are for a person; none: no third verdict."""

    @classmethod
    def of(cls, number: int | None, path: Path) -> Version:
        """What a detector's file says."""
        detector, date = Detector.load(path), datetime.fromtimestamp(path.stat().st_mtime, UTC)
        data = detector.training.get("recalibrated_on")
        n = len(detector.held_out_scores)
        rates = detector.threshold, detector.alpha
        return cls(number, date.isoformat(" ", "seconds"), *rates, n, data, detector.review_alpha)


@dataclass(frozen=True)
class RunFolder:
    """The files of one training."""

    root: Path

    @classmethod
    def of(cls, path: str | Path) -> RunFolder | None:
        """The run folder that a path is, or whose detector it is; none of another file."""
        path = Path(path)
        if path.is_dir():
            return cls(path)
        folder = cls(path.parent)
        return folder if path.name == folder.model.name and folder.config.is_file() else None

    @property
    def model(self) -> Path:
        """The detector, which is written when all else is there."""
        return self.root / "model.safetensors"

    @property
    def config(self) -> Path:
        """The complete config, and the fingerprint of the images in its last line; it is written first."""
        return self.root / "config.toml"

    @property
    def history(self) -> Path:
        """Losses and watched figures through training."""
        return self.root / "history.csv"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.root / "checkpoints"

    def checkpoint(self, fold: int = 0) -> Path:
        """The state of an unfinished training; each fold has its own, and beside it the one before."""
        return self.checkpoints / (f"fold{fold + 1}.safetensors" if fold else "last.safetensors")

    @property
    def summary(self) -> Path:
        """What was trained on, how long it took, which images could not be used."""
        return self.root / "run.json"

    @property
    def health(self) -> Path:
        """The verdict of the last health check."""
        return self.root / HEALTH_FILE

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.root / "tensorboard"

    @property
    def mlflow(self) -> Path:
        """The folder of an MLflow store, whose runs of earlier trainings stay."""
        return self.root / "mlflow"

    @property
    def mlflow_run(self) -> Path:
        """The number of the training's MLflow run, wherever that is."""
        return self.root / "mlflow-run.txt"

    @property
    def versions(self) -> dict[int, Path]:
        """Earlier detectors by their number, the oldest first: each was the run's until another took its place."""
        return {n: path for n, path in self._numbered().items() if path.is_file() and not path.is_symlink()}

    def _numbered(self) -> dict[int, Path]:
        """Whatever has the name of a version."""
        folder = self.root / "versions"
        if folder.is_symlink():
            raise ArtefactError(f"{folder} is a link; earlier detectors are kept in the run folder itself: remove it")
        names = ((VERSION.fullmatch(path.name), path) for path in (folder.iterdir() if folder.is_dir() else ()))
        return dict(sorted((int(name[1]), path) for name, path in names if name))

    @property
    def is_finished(self) -> bool:
        """Whether its training has nothing left to do: the notes and the detector are there, and no checkpoint."""
        return not self._checkpoints() and all(path.is_file() for path in (self.history, self.summary, self.model))

    def _checkpoints(self) -> list[Path]:
        inner = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return [path for path in inner if CHECKPOINT.fullmatch(path.name)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from writing here, which ends with this one; on file systems without locks, do not.

        The folder is made if it is not there, and removed again if nothing was written.

        Raises:
            ArtefactError: if another process writes here, or the folder cannot be made.
        """
        made = [path for path in (self.root, *self.root.parents) if not path.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.root, os.O_RDONLY)
        except OSError as error:
            raise self._unfit(error) from None
        try:
            lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise ArtefactError(
                f"another process is writing to {self.root}; wait until it has ended, or choose another --out"
            ) from None
        try:
            yield
        finally:
            with suppress(OSError):  # it holds something now
                for path in made:
                    path.rmdir()
            os.close(descriptor)

    def _unfit(self, error: OSError) -> ArtefactError:
        return ArtefactError(f"{self.root} cannot hold a run ({error.strerror}); choose another --out")

    def replace(self, detector: Detector) -> bool:
        """Write another detector in the place of the run's, which stays as the next version; false if it is the same.

        Raises:
            ArtefactError: if either cannot be written: then all is as it was.
        """
        newest = max(self._numbered(), default=0)
        for draft in filter(_is_draft, (*self.root.iterdir(), *_within(self.root / "versions"))):  # a kill left these
            _remove(draft)
        kept = self.root / "versions" / f"{newest}.safetensors"
        if newest not in self.versions or digest(kept) != digest(self.model):  # else a kill left it as a copy
            kept = kept.with_stem(f"{newest + 1}")
            with replacing(kept) as temporary:
                shutil.copy2(self.model, temporary)  # with its date
        try:
            detector.save(self.model)
        finally:
            is_other = digest(self.model) != digest(kept)
            if not is_other:  # nothing was written, or the same again
                _remove(kept)
        return is_other

    def undo(self) -> Version:
        """Bring back the newest version in the place of the run's detector, which is dropped, by one renaming.

        Raises:
            ArtefactError: if there is none, it is damaged, or the folder cannot be written to.
        """
        if not (versions := self.versions):
            raise ArtefactError(f"{self.root} keeps no earlier detector: there is no calibration to undo")
        path = list(versions.values())[-1]
        version = Version.of(None, path)
        try:
            path.replace(os.path.realpath(self.model))
        except OSError as error:
            raise ArtefactError(f"{self.model} cannot be written ({error.strerror or error})") from None
        _remove(path)
        return version

    def all_versions(self) -> list[Version]:
        """The detectors of the run, the oldest first; the last one is in use.

        Raises:
            ArtefactError: if there is none, or one is damaged.
        """
        found: list[tuple[int | None, Path]] = [*self.versions.items(), (None, artefact_path(self.root))]
        return [Version.of(number, path) for number, path in found]

    @property
    def report(self) -> Path:
        """The report, once it is asked for."""
        return self.root / "report.html"

    def claim(self, config: Config, images_sha256: str, *, overwrite: bool) -> None:
        """Make the folder this training's: go on with it, start it, or refuse to destroy anything else.

        Raises:
            ArtefactError: if the folder holds another training and may not be overwritten, or holds no run at all.
        """
        text = f"{dump_config(config)}# images {images_sha256}\n"
        try:
            for path in self._obsolete(text.encode(), overwrite):
                if path.is_symlink() or path.is_file():
                    _remove(path)
        except OSError as error:
            raise self._unfit(error) from None
        if not self.config.is_file() or self.config.read_bytes() != text.encode():
            write_text(self.config, text)

    def write(self, detector: Detector, history: Sequence[Row], notes: Mapping[str, Any]) -> None:
        """Write what a training leaves, the detector last; while there are checkpoints, it is not finished."""
        write_text(self.history, history_csv(history))
        write_text(self.summary, json.dumps(notes, indent=2))
        if self.model.exists():
            self.replace(detector)  # the same again, unless it was calibrated since
        else:
            detector.save(self.model)

    def finish(self) -> None:
        """Remove the checkpoints: the training has nothing left to do."""
        for path in self._checkpoints():
            path.unlink(missing_ok=True)
        with suppress(OSError):  # a link, or something else lies in it
            self.checkpoints.rmdir()

    def _obsolete(self, claim: bytes, overwrite: bool) -> list[Path]:
        """What this training removes before it starts: never more than files of a run, by their names."""
        outer = list(self.root.iterdir()) if self.root.exists() else []
        linked = self.checkpoints.is_symlink()
        inner = list(self.checkpoints.iterdir()) if self.checkpoints in outer and not linked else []
        earlier = _within(self.root / "versions")
        drafts = [path for path in (*outer, *inner, *earlier) if _is_draft(path)]
        saved = [self.checkpoints] if linked else [path for path in inner if CHECKPOINT.fullmatch(path.name)]
        if self.config.is_file() and not self.config.is_symlink() and MARK.search(self.config.read_bytes()):
            if self.config.read_bytes() == claim:
                return drafts  # this very training
            if overwrite:
                numbered = [path for path in earlier if VERSION.fullmatch(path.name)]
                events = [path for path in _within(self.tensorboard) if EVENTS.fullmatch(path.name)]
                return [*(self.root / name for name in FILES), *numbered, *events, *saved, *drafts]
            raise ArtefactError(
                f"{self.root} holds a training with another config or other images; "
                "choose another --out, or replace it with --overwrite"
            )
        known = {*drafts, *filter(_is_checkpoint, saved), *(() if linked else [self.checkpoints])}
        if others := {*outer, *inner} - known:
            raise ArtefactError(f"{self.root} holds other files ({min(others).name}) and no run; choose another --out")
        return [*saved, *drafts]


def _is_draft(path: Path) -> bool:
    """Whether this is an unfinished file of a run, which its writer did not live to remove."""
    draft = TEMPORARY.fullmatch(path.name)
    return draft is not None and (
        draft[1] in (*FILES, "config.toml") or any(kind.fullmatch(draft[1]) for kind in (CHECKPOINT, VERSION))
    )


def _within(folder: Path) -> list[Path]:
    """What a folder holds; of a link to one, and of what is none, nothing."""
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _remove(path: Path) -> None:
    """Remove a file, or of a link the link itself, and the folder of versions or events with the last of them."""
    path.unlink(missing_ok=True)
    if path.parent.name in ("versions", "tensorboard"):
        with suppress(OSError):  # something else lies in it
            path.parent.rmdir()


def _is_checkpoint(path: Path) -> bool:
    try:
        return load_tensors(path)[1].get("kind") == "checkpoint"
    except ArtefactError:
        return False

"""The files of one training: where they are, and which of them may be removed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alocc.config import Config, dump_config
from alocc.detector import Detector
from alocc.errors import ArtefactError
from alocc.storage import TEMPORARY, load_tensors, write_text
from alocc.training.history import Row, history_csv

EXPORTS = tuple(f"model{kind}{suffix}" for kind in ("", "-int8") for suffix in (".onnx", ".xml", ".bin"))
FILES = ("model.safetensors", *EXPORTS, "report.html", "health.json", "run.json", "history.csv")
"""What a run folder holds beside config.toml and checkpoints, in the order in which it is removed."""
CHECKPOINT = re.compile(r"(last|fold\d+)\.safetensors")
MARK = re.compile(rb"^# images [0-9a-f]{64}\n\Z", re.MULTILINE)
"""The last line of a run's config.toml: what says that a folder is a run's."""


@dataclass(frozen=True)
class RunFolder:
    """The files of one training."""

    root: Path

    @property
    def model(self) -> Path:
        """The detector, which is written last: where it is, the training is finished."""
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
        """The state of an unfinished training; each fold has its own."""
        return self.checkpoints / (f"fold{fold + 1}.safetensors" if fold else "last.safetensors")

    @property
    def summary(self) -> Path:
        """What was trained on, how long it took, which images could not be used."""
        return self.root / "run.json"

    @property
    def health(self) -> Path:
        """The verdict of the last health check."""
        return self.root / "health.json"

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
                    path.unlink()  # of a link the link itself
        except OSError as error:
            raise ArtefactError(f"{self.root} cannot hold a run ({error.strerror}); choose another --out") from None
        write_text(self.config, text)

    def write(self, detector: Detector, history: Sequence[Row], notes: Mapping[str, Any], n_folds: int) -> None:
        """Write what a finished training leaves; where there is a checkpoint, it is not finished."""
        write_text(self.history, history_csv(history))
        write_text(self.summary, json.dumps(notes, indent=2))
        detector.save(self.model)
        for fold in range(n_folds):
            self.checkpoint(fold).unlink(missing_ok=True)
        with suppress(OSError):  # a link, or something else lies in it
            self.checkpoints.rmdir()

    def _obsolete(self, claim: bytes, overwrite: bool) -> list[Path]:
        """What this training removes before it starts: never more than files of a run, by their names."""
        outer = list(self.root.iterdir()) if self.root.exists() else []
        linked = self.checkpoints.is_symlink()
        inner = list(self.checkpoints.iterdir()) if self.checkpoints in outer and not linked else []
        drafts = [path for path in (*outer, *inner) if _is_draft(path)]
        saved = [self.checkpoints] if linked else [path for path in inner if CHECKPOINT.fullmatch(path.name)]
        if self.config.is_file() and not self.config.is_symlink() and MARK.search(self.config.read_bytes()):
            if overwrite:
                return [*(self.root / name for name in FILES), *saved, *drafts]
            if self.config.read_bytes() != claim:
                raise ArtefactError(
                    f"{self.root} holds a training with another config or other images; "
                    "choose another --out, or replace it with --overwrite"
                )
            return drafts  # the same training goes on, or, where there is no checkpoint, runs again
        known = {*drafts, *filter(_is_checkpoint, saved), *(() if linked else [self.checkpoints])}
        if others := {*outer, *inner} - known:
            raise ArtefactError(f"{self.root} holds other files ({min(others).name}) and no run; choose another --out")
        return [*saved, *drafts]


def _is_draft(path: Path) -> bool:
    """Whether this is an unfinished file of a run, which its writer did not live to remove."""
    draft = TEMPORARY.fullmatch(path.name)
    return draft is not None and (draft[1] in (*FILES, "config.toml") or CHECKPOINT.fullmatch(draft[1]) is not None)


def _is_checkpoint(path: Path) -> bool:
    try:
        return load_tensors(path)[1].get("kind") == "checkpoint"
    except ArtefactError:
        return False

"""The verdict on a detector, which goes wherever the detector goes: into its run folder and its exported files.

:mod:`alocc.evaluation.health` makes it; everything that scores warns by it. The standard library is all it needs.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from alocc.errors import ArtefactError, UselessDetectorWarning
from alocc.storage import digest

Verdict = Literal["good", "doubtful", "useless"]
HEALTH_FILE = "health.json"
"""Beside a detector's file: the last check of it."""


@dataclass(frozen=True)
class Finding:
    """One reason for a verdict, and what to do about it."""

    verdict: Verdict
    """What it makes of the detector; good where it only says how much the verdict of a good one is worth."""
    reason: str
    advice: str


@dataclass(frozen=True)
class Health:
    """A verdict, and the findings that it is the worst of."""

    verdict: Verdict
    findings: Sequence[Finding]
    meaning: str
    """What the verdict says, and what it does not say, in plain words."""

    @property
    def warning(self) -> str | None:
        """One line for whoever uses the detector: the verdict and its first reason; none where it is good."""
        if self.verdict == "good":
            return None
        n_others = sum(finding.verdict != "good" for finding in self.findings) - 1
        others = f" (and {n_others} more)" if n_others > 0 else ""
        return f"the health check called this detector {self.verdict}: {self.findings[0].reason}{others}"


def warn_if_useless(health: Health | None) -> None:
    """Warn whoever called alocc, however deep in it this is; Python shows it once for each place in a program."""
    if health and health.verdict == "useless":
        inside = (f"{Path(__file__).parent}{os.sep}",)
        warnings.warn(str(health.warning), UselessDetectorWarning, stacklevel=2 + _frames_inside(inside))


def _frames_inside(folders: tuple[str, ...]) -> int:
    """How many callers of the function that asks have their code in these folders, one after the other."""
    n, frame = 0, sys._getframe(2)
    while frame.f_code.co_filename.startswith(folders) and frame.f_back:
        n, frame = n + 1, frame.f_back
    return n


def parse_health(notes: Mapping[str, Any]) -> Health:
    """A verdict from what JSON holds of it.

    Raises:
        ValueError: if it is none.
    """
    try:
        findings = [Finding(one["verdict"], one["reason"], one["advice"]) for one in notes["findings"]]
        health = Health(notes["verdict"], findings, notes["meaning"])
    except (KeyError, TypeError):
        raise ValueError("no verdict with findings") from None
    texts = [health.meaning, *(text for finding in findings for text in (finding.reason, finding.advice))]
    verdicts = [health.verdict, *(finding.verdict for finding in findings)]
    if not all(isinstance(text, str) for text in texts) or not all(one in get_args(Verdict) for one in verdicts):
        raise ValueError("a verdict that is none")
    if health.verdict != "good" and not findings:
        raise ValueError("a verdict without a reason")
    return health


def read_health(path: Path) -> Health | None:
    """The last verdict on a detector's file, which lies beside it; none if it is of another file, or is not there."""
    try:
        notes = json.loads(path.with_name(HEALTH_FILE).read_text(encoding="utf-8"))
        return parse_health(notes) if notes["made_from"] == digest(path) else None
    except (ArtefactError, KeyError, OSError, RecursionError, TypeError, ValueError):
        return None

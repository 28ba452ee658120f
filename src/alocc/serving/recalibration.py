"""What people marked → another calibration of the same model file, shown before it is applied, and taken back at will.

Which images count as normal, and what that costs, is in docs/decisions/0034.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import ANOMALOUS, CANT_TELL, NORMAL, Calibration, FloatArray, images_needed
from alocc.errors import ConfigError, DamagedError, RefusedError
from alocc.serving.history import CONFIRMED, FALSE_ALARM, MISSED, CalibrationRow, History, ImageRow, now

if TYPE_CHECKING:
    from alocc.evaluation.monitoring import Drift
    from alocc.serving.models import Loaded

Basis = Literal["added", "recent"]
LAST = 10_000
"""Images that are looked at, if nothing else is said."""
SHOWN = 50
"""Changes of verdicts that a proposal shows one by one."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Precision:
    """How many of the images that were called anomalies are defective, as far as people looked."""

    n_confirmed: int
    n_false_alarms: int
    n_unmarked: int
    """Called, and nobody said what they are."""
    value: float | None
    """Confirmed ones among the marked; none if there are none."""
    low: float
    high: float
    """95 % interval of Clopper and Pearson; 0 to 1 if none is marked."""


@dataclass(frozen=True)
class Change:
    """An image that would get another verdict."""

    image: ImageRow
    before: str
    after: str


@dataclass(frozen=True, eq=False)
class Proposal:
    """A calibration that could take the place of the present one, and what would be different with it."""

    basis: Basis
    calibration: Calibration
    """The proposed one."""
    present: Calibration
    n_images: int
    """Images that were looked at: the last ones of this model file with a verdict."""
    n_normals: int
    """Different ones among them that count as normal."""
    n_false_alarms: int
    """How many of these were called, or were not told, and marked as good."""
    n_left_out: int
    """Different ones that were called and that nobody marked: they count neither as normal nor as defective."""
    rate_if_left_out_are_good: float
    """Share of the normal ones and of those left out that would be called: the false-positive rate, were all good."""
    verdicts: Mapping[tuple[str, str], int]
    """(verdict now, verdict then) → how many of the images."""
    changes: Sequence[Change]
    """The newest ones with another verdict, at most 50."""
    precision_before: Precision
    precision: Precision
    """Of these very images, whose false alarms are in the calibration: better than what new ones will show."""
    digest: str
    """What was proposed: applying it asks for it."""


class Calibrations:
    """Which calibration each model uses. Every method may be called from any thread."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._current: dict[tuple[str, str], CalibrationRow | None] = {}

    def current(self, loaded: Loaded) -> tuple[int, Calibration]:
        """Number and calibration that a model's p-values come from; 0: its file's own.

        It is read from the history once: one server has it, and nobody else writes there. It waits for the database
        only where :meth:`read` was not called before.
        """
        row = self._in_use(loaded)
        return (0, loaded.engine.calibration) if row is None else (row.number, _calibration(row))

    def read(self, loaded: Loaded) -> CalibrationRow | None:
        """Read which calibration is active, whatever it was before; none: the file's own.

        To be called before a model is used, where it may wait.
        """
        key = (loaded.name, loaded.version)
        with self._lock:
            found = self._current[key] = next((row for row in self._history.calibrations(*key) if row.active), None)
            return found

    def propose(
        self,
        loaded: Loaded,
        basis: Basis = "added",
        alpha: float | None = None,
        review_alpha: float | None = None,
        last: int = LAST,
    ) -> Proposal:
        """What images that count as normal would set.

        Args:
            loaded: the model; only scores by this very file count.
            basis: "added": to the file's held-out images; "recent": instead of them.
            alpha: false-positive rate; none: the present one. So with ``review_alpha``.
            last: how many images are looked at, the newest ones.

        Raises:
            ConfigError: if too few images count as normal.
        """
        rows = self._history.last(loaded.name, last, loaded.version)
        return self._proposal(loaded, rows, basis, alpha, review_alpha)

    def apply(
        self,
        loaded: Loaded,
        digest: str,
        basis: Basis = "added",
        alpha: float | None = None,
        review_alpha: float | None = None,
        last: int = LAST,
    ) -> int:
        """Use from now on what :meth:`propose` gave with these arguments, and give its number.

        Images that came later do not matter.

        Raises:
            RefusedError: 409, if it would be another proposal by now: a mark, a calibration or the model is not the
                one that it was.
        """
        rows = self._history.last(loaded.name, last, loaded.version, upto=digest.partition("-")[0])
        stale = RefusedError(409, "marks, calibration or model have changed since this was proposed; look at it again")
        if not rows:
            raise stale
        proposal = self._proposal(loaded, rows, basis, alpha, review_alpha)
        if proposal.digest != digest:
            raise stale
        kept = proposal.calibration
        row = CalibrationRow(
            model=loaded.name,
            version=loaded.version,
            number=0,
            time=now(),
            alpha=kept.alpha,
            review_alpha=kept.review_alpha,
            basis=basis,
            n_images=proposal.n_normals,
            held_out_scores=kept.held_out_scores,
        )
        number = self._history.add_calibration(row).number
        self._look_again(loaded)
        return number

    def activate(self, loaded: Loaded, number: int) -> None:
        """Use an earlier calibration again; 0: the file's own.

        Raises:
            ConfigError: if there is none of this number.
        """
        self._history.activate(loaded.name, loaded.version, number)
        self._look_again(loaded)

    def versions(self, loaded: Loaded) -> list[CalibrationRow]:
        """All calibrations of a model's file but its own, the newest first."""
        return self._history.calibrations(loaded.name, loaded.version)

    def precision(self, loaded: Loaded, last: int = LAST) -> Precision:
        """Of what the present calibration calls, at its own alpha, among the last images of a model's file."""
        rows = different(self._history.last(loaded.name, last, loaded.version))
        return precision(rows, (_verdicts(self.current(loaded)[1], _scores(rows)) == ANOMALOUS).tolist())

    def counts_at(
        self, loaded: Loaded, alpha: float | None, review_alpha: float | None, last: int
    ) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """How many of the last images have each verdict by the present calibration, and would have at other alphas.

        Raises:
            ConfigError: if the calibration does not support them.
        """
        present = self.current(loaded)[1]
        scores = _scores(self._history.last(loaded.name, last, loaded.version))
        return _counts(_verdicts(present, scores)), _counts(_verdicts(present.at(alpha, review_alpha), scores))

    def drift(self, loaded: Loaded, rows: Sequence[ImageRow], window: int) -> Drift:
        """What the monitor says of images, given the newest first, against the calibration in use.

        Windows are named by their times.

        Raises:
            DataError: if there are fewer than 10.
        """
        from alocc.evaluation.monitoring import monitor
        from alocc.scores import Scores

        rows, row = rows[::-1], self._in_use(loaded)
        calibration = loaded.engine.calibration if row is None else _calibration(row)
        training = dict(loaded.engine.training)
        if row is not None and row.basis == "recent":  # no network of a fold scored these images
            training["recalibrated_on"] = "recent images of the history"
        scores = _scores(rows)
        p_values = calibration.p_values(scores)
        found = Scores(scores, p_values, p_values <= calibration.alpha, {}, None, calibration.alpha)
        reference: Any = _Reference(calibration.alpha, calibration.held_out_scores, training)
        return monitor(reference, [one.time.isoformat() for one in rows], found, window)

    def _proposal(
        self, loaded: Loaded, rows: Sequence[ImageRow], basis: Basis, alpha: float | None, review_alpha: float | None
    ) -> Proposal:
        number, present = self.current(loaded)
        images, scores = different(rows), _scores(rows)
        before = _verdicts(present, scores)  # by one alpha: each request may have been at another
        was_called = {row.id: verdict == ANOMALOUS for row, verdict in zip(rows, before.tolist(), strict=True)}
        normals = [row for row in images if counts_as_normal(row, was_called[row.id])]
        left_out = [row for row in images if row.mark is None and was_called[row.id]]
        calibration = _calibrated(loaded.engine.calibration, present, normals, basis, alpha, review_alpha)
        pairs = list(zip(before.tolist(), _verdicts(calibration, scores).tolist(), strict=True))
        is_called = {row.id: verdict == ANOMALOUS for row, (_, verdict) in zip(rows, pairs, strict=True)}
        called = [is_called[row.id] for row in (*normals, *left_out)]
        return Proposal(
            basis=basis,
            calibration=calibration,
            present=present,
            n_images=len(rows),
            n_normals=len(normals),
            n_false_alarms=sum(row.mark == FALSE_ALARM for row in normals),
            n_left_out=len(left_out),
            rate_if_left_out_are_good=sum(called) / len(called),
            verdicts=Counter(pairs),
            changes=[Change(row, *pair) for row, pair in zip(rows, pairs, strict=True) if pair[0] != pair[1]][:SHOWN],
            precision_before=precision(images, [was_called[row.id] for row in images]),
            precision=precision(images, [is_called[row.id] for row in images]),
            digest=f"{rows[0].id}-{_digest(number, present, calibration, images)}",
        )

    def _in_use(self, loaded: Loaded) -> CalibrationRow | None:
        """The calibration that is active; none: the file's own."""
        key = (loaded.name, loaded.version)
        return self._current[key] if key in self._current else self.read(loaded)

    def _look_again(self, loaded: Loaded) -> None:
        try:
            self.read(loaded)
        except Exception:  # what it was before is no longer so
            self._current.pop((loaded.name, loaded.version), None)
            raise
        self.current(loaded)  # says if it is damaged


def counts_as_normal(row: ImageRow, is_called: bool) -> bool:
    """Whether an image is taken for a normal one: marked as good, or neither called nor marked as defective.

    Args:
        is_called: by the calibration in use, at its own alpha; whoever had it scored may have asked for another.
    """
    return row.mark == FALSE_ALARM or (row.mark is None and not is_called)


def different(rows: Iterable[ImageRow]) -> list[ImageRow]:
    """The rows, the newest first, with one for each image: the newest that is marked, or else the newest."""
    found: dict[str, ImageRow] = {}
    for row in rows:
        if row.sha256 not in found or (found[row.sha256].mark is None and row.mark is not None):
            found[row.sha256] = row
    return list(found.values())


def precision(images: Sequence[ImageRow], called: Sequence[bool]) -> Precision:
    """Of images that are called or not, each there once."""
    marks = Counter(row.mark for row, is_called in zip(images, called, strict=True) if is_called)
    good, defective = marks[FALSE_ALARM], marks[CONFIRMED] + marks[MISSED]
    low, high = clopper_pearson(defective, good + defective)
    value = defective / (good + defective) if good + defective else None
    return Precision(defective, good, marks[None], value, low, high)


def clopper_pearson(count: int, n: int) -> tuple[float, float]:
    """Exact 95 % interval of the chance behind ``count`` of n (Clopper & Pearson 1934); 0 to 1 if there are none."""
    from scipy.stats import binomtest

    if not n:
        return 0.0, 1.0
    low, high = binomtest(count, n).proportion_ci(CONFIDENCE, "exact")
    return float(low), float(high)


@dataclass(frozen=True)
class _Reference:
    """All that the monitor asks of a detector."""

    alpha: float
    held_out_scores: FloatArray
    training: Mapping[str, Any]


def _calibrated(
    own: Calibration,
    present: Calibration,
    normals: Sequence[ImageRow],
    basis: Basis,
    alpha: float | None,
    review_alpha: float | None,
) -> Calibration:
    """The calibration that follows from images that count as normal, with the file's own ones or without."""
    wanted = present.alpha if alpha is None else alpha
    review = present.review_alpha if review_alpha is None else review_alpha
    if alpha is not None and review_alpha is None and review is not None:
        review = max(review, alpha)
    needed = images_needed(wanted) if basis == "recent" and 0 < wanted < 1 else 1
    if len(normals) < needed:
        raise ConfigError(
            f"{len(normals):,} of the images that were looked at count as normal, and alpha {wanted:g} "
            f"{'alone ' if basis == 'recent' else ''}needs {needed:,}: score or mark more, or look at more of them"
        )
    scores = _scores(normals)
    return Calibration.of(
        scores if basis == "recent" else np.concatenate([own.held_out_scores, scores]), wanted, review
    )


def _calibration(row: CalibrationRow) -> Calibration:
    scores = row.held_out_scores
    if not (len(scores) and np.isfinite(scores).all() and (np.diff(scores) >= 0).all()):
        raise DamagedError(f"calibration {row.number} of {row.model} in the history is damaged; use another one")
    return Calibration(scores, row.alpha, row.review_alpha)


def _scores(rows: Sequence[ImageRow]) -> FloatArray:
    return np.array([row.anomaly_score for row in rows], np.float64)


def _verdicts(calibration: Calibration, scores: FloatArray) -> NDArray[np.str_]:
    return calibration.verdicts(calibration.p_values(scores))


def _counts(verdicts: NDArray[np.str_]) -> dict[str, int]:
    counted = Counter(verdicts.tolist())
    return {verdict: counted[verdict] for verdict in (NORMAL, CANT_TELL, ANOMALOUS)}


def _digest(number: int, present: Calibration, proposed: Calibration, images: Sequence[ImageRow]) -> str:
    alphas = [number, present.alpha, present.review_alpha, proposed.alpha, proposed.review_alpha]
    total = hashlib.sha256(json.dumps([alphas, [(row.id, row.mark) for row in images]]).encode())
    total.update(np.ascontiguousarray(proposed.held_out_scores, "<f8").tobytes())
    return total.hexdigest()[:16]

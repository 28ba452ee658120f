"""The scores, p-values and verdicts that a detector gives images. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import CANT_TELL, FloatArray, verdicts
from alocc.errors import ConfigError
from alocc.notebook import html_table

if TYPE_CHECKING:
    from pandas import DataFrame

Progress = Callable[[int], None]
"""Told of the number of images of each finished batch."""

SHOWN = 10
"""Images, and images that could not be used, that a notebook shows."""


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """What a detector says of n images; every array has n entries."""

    anomaly_score: FloatArray
    """Higher = more anomalous; unbounded, in about standard deviations of normal images."""
    p_value: FloatArray
    """Share of held-out normal images at least as anomalous, in (0, 1]; small = anomalous."""
    is_anomaly: NDArray[np.bool_]
    """``p_value <= alpha``."""
    parts: Mapping[str, FloatArray]
    """Each part of the anomaly score, before it is standardised; higher = more anomalous."""
    p_real: FloatArray | None
    """D's probability that its input is a real normal image, in [0, 1]; none if D has no part in the score."""
    alpha: float
    """The false-positive rate behind ``is_anomaly``."""
    anomaly_map: NDArray[np.float32] | None = None
    """Where images are unusual, (n, H, W), if that was asked for."""
    paths: Sequence[str] | None = None
    """Path of each image; none if the images were arrays."""
    skipped: Sequence[tuple[str, str]] = ()
    """Path of each image that could not be used, and why; they are not among the n."""
    review_alpha: float | None = None
    """The rate up to which an image that is no anomaly is for a person; none: there is no third verdict."""

    @property
    def verdict(self) -> NDArray[np.str_]:
        """Of each image: "anomalous" if ``is_anomaly``, else "can't tell" if p_value ≤ review_alpha, else "normal"."""
        return verdicts(self.p_value, self.is_anomaly, self.review_alpha)

    @property
    def n_review(self) -> int | None:
        """How many are for a person; none without a review alpha."""
        return None if self.review_alpha is None else int((self.verdict == CANT_TELL).sum())

    def __len__(self) -> int:
        return len(self.anomaly_score)

    def __getitem__(self, keep: int | slice | NDArray[np.generic]) -> Scores:
        """Those of a part of the images, by index, slice, indices or mask; without the skipped ones."""
        indices = np.atleast_1d(np.arange(len(self))[keep])
        return replace(
            self,
            anomaly_score=self.anomaly_score[indices],
            p_value=self.p_value[indices],
            is_anomaly=self.is_anomaly[indices],
            parts={name: part[indices] for name, part in self.parts.items()},
            p_real=None if self.p_real is None else self.p_real[indices],
            anomaly_map=None if self.anomaly_map is None else self.anomaly_map[indices],
            paths=None if self.paths is None else [self.paths[i] for i in indices],
            skipped=(),
        )

    def top(self, n: int = SHOWN) -> Scores:
        """Those of the n most anomalous images, in this order; images of one score stay as they came."""
        return self[self._by_score()[:n]]

    def to_pandas(self) -> DataFrame:
        """A row for each image; for files with path and error, as in the table that the command line writes.

        With a review alpha, verdict is a column too.
        Files that could not be used come last, without numbers.

        Raises:
            ConfigError: if pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ConfigError("to_pandas() needs pandas; install it with: pip install pandas") from None
        unusable = len(self.skipped)
        numbers = {
            "anomaly_score": np.append(self.anomaly_score, np.full(unusable, np.nan)),
            "p_value": np.append(self.p_value, np.full(unusable, np.nan)),
            "is_anomaly": pandas.array([*self.is_anomaly.tolist(), *[None] * unusable], dtype="boolean"),
        }
        if self.review_alpha is not None:
            verdict = [*self.verdict.tolist(), *[None] * unusable]
            numbers["verdict"] = pandas.array(verdict, dtype="string")
        if self.paths is None:
            return pandas.DataFrame(numbers)
        paths = [*self.paths, *(path for path, _ in self.skipped)]
        errors = [*[None] * len(self), *(reason for _, reason in self.skipped)]
        return pandas.DataFrame({"path": paths, **numbers, "error": pandas.array(errors, dtype="string")})

    def __repr__(self) -> str:
        unusable = f", {len(self.skipped):,} more could not be used" if self.skipped else ""
        return f"Scores({self._counts}{unusable})"

    def _repr_html_(self) -> str:
        order, verdict = self._by_score()[:SHOWN].tolist(), self.verdict.tolist()
        rows = [
            (
                str(i) if self.paths is None else self.paths[i],
                f"{self.anomaly_score[i]:.2f}",
                f"{self.p_value[i]:.3g}",
                verdict[i],
            )
            for i in order
        ]
        caption = self._counts + (f"; the {SHOWN} most anomalous" if len(self) > SHOWN else "")
        shown = html_table(caption, rows, ("image", "anomaly score", "p-value", "verdict"))
        if not self.skipped:
            return shown
        caption = f"{len(self.skipped):,} more could not be used"
        caption += f"; the first {SHOWN}" if len(self.skipped) > SHOWN else ""
        return f"{shown}\n{html_table(caption, self.skipped[:SHOWN], ('image', 'reason'))}"

    @property
    def _counts(self) -> str:
        """How many images there are of each verdict, but for the normal ones."""
        found = f"{len(self):,} images, {self.is_anomaly.sum():,} anomalous at alpha {self.alpha:.3g}"
        if self.review_alpha is None:
            return found
        return f"{found}, {self.n_review:,} can't tell up to alpha {self.review_alpha:.3g}"

    def _by_score(self) -> NDArray[np.int64]:
        """Indices of the images, the most anomalous first; images of one score stay as they came."""
        return np.argsort(-self.anomaly_score, kind="stable")

    @classmethod
    def joined(cls, several: Sequence[Scores]) -> Scores:
        """Scores of one detector, one behind the other."""
        first = several[0]

        def one_behind_the_other(name: str) -> Any:
            return None if getattr(first, name) is None else np.concatenate([getattr(one, name) for one in several])

        return cls(
            one_behind_the_other("anomaly_score"),
            one_behind_the_other("p_value"),
            one_behind_the_other("is_anomaly"),
            {name: np.concatenate([scores.parts[name] for scores in several]) for name in first.parts},
            one_behind_the_other("p_real"),
            first.alpha,
            one_behind_the_other("anomaly_map"),
            None if first.paths is None else [path for scores in several for path in scores.paths or ()],
            [item for scores in several for item in scores.skipped],
            first.review_alpha,
        )

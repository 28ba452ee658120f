"""Do incoming images still look like those that a detector was calibrated on? Asked of their scores, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alocc.calibration import Calibration, FloatArray
from alocc.data.appearance import appearance, changes
from alocc.data.sources import ImageSet
from alocc.errors import DataError
from alocc.regions import Region
from alocc.scores import Scores
from alocc.scoring.stream import Engine

OBVIOUS = 3.0
"""Standard deviations of normal images by which a change of their look is one, whatever the scores say."""
FEWEST = 10
"""Images of which something is said, at least."""
OTHER_SIZE = 0.05
"""Share of a side from which the median size of images is another one."""
TOLERATED = 0.06
"""Distance of the scores' distributions that folds may make by themselves: see docs/decisions/0020."""
ALARM = 0.0005
"""Chance of a false alarm in all windows, of each of two tests: of the scores, and of how many images are called."""


class Looks:
    """What the images of a stream look like, noted batch after batch."""

    def __init__(self) -> None:
        self.appearance: list[NDArray[np.float64]] = []
        self.sizes: list[tuple[int, int]] = []

    def of(self, batches: Iterable[ImageSet], most: int = 50) -> Iterator[ImageSet]:
        """The same batches, while the look of the first few images of each is noted."""
        for batch in batches:
            if len(batch):  # else not one of its images can be used
                self.appearance.append(appearance(batch.images[:most]))
            yield batch

    def note(self, images: ImageSet, scores: Scores, regions: Sequence[Sequence[Region]] = ()) -> None:
        """Note the look of a batch before it is let go."""
        self.appearance.append(appearance(images.images))
        self.sizes += images.sizes


def other_images(detector: Engine, looks: NDArray[np.float64], at_floor: bool) -> str | None:
    """One line where images are obviously of another kind than those that a detector knows, else none.

    Args:
        detector: that scored them.
        looks: their appearance, (n, 4).
        at_floor: whether every image has the smallest p-value that there is.
    """
    usual = "those that set the threshold" if "recalibrated_on" in detector.training else "those trained on"
    if differs := changes(looks, detector.training.get("appearance", {}), OBVIOUS):
        return f"these images look different from {usual}: {'; '.join(differs)}"
    if at_floor and len(looks) >= FEWEST:
        return f"every image is as anomalous as can be told: if normal ones are among them, they differ from {usual}"
    return None


@dataclass(frozen=True)
class Window:
    """Some images in a row."""

    first: str
    last: str
    n_images: int
    mean_p_value: float
    """About 0.5 while nothing has changed; lower when images get more unusual."""
    share_of_anomalies: float
    p_same: float
    """p-value of the hypothesis that these images score like the held-out ones (Kolmogorov–Smirnov, two samples)."""
    has_drifted: bool
    """Whether one of these is more unlikely than the chance of a false alarm allows, all windows counted; or whether
    images look so different that it matters, though the scores do not say so."""
    p_called: float = 1.0
    """Chance that so many images are called anomalies, or more, if they are like the held-out ones."""


@dataclass(frozen=True)
class Drift:
    """What the scores of a stream of images say."""

    windows: Sequence[Window]
    alpha: float
    has_drifted: bool
    """Some window has."""
    changes: Sequence[str] = ()
    """What looks different in the windows that have drifted: brightness, contrast, sharpness, colour, size."""
    is_known: bool = False
    """Whether looks were compared; detectors of an older alocc do not know the usual one."""

    @property
    def verdict(self) -> str:
        """In words, with advice."""
        if not self.has_drifted:
            return "no sign of a change"
        if self.changes:
            return (
                f"the images have changed: {'; '.join(self.changes)}. If that is how normal images look now, calibrate "
                "or train again; if not, put it back as it was"
            )
        alike = "; brightness, contrast, sharpness, colour and size are as usual" if self.is_known else ""
        drifted = [one.mean_p_value for one in self.windows if one.has_drifted]
        if min(drifted) > 0.5 and not any(one.p_called < ALARM / len(self.windows) for one in self.windows):
            return (
                f"the images look more usual than the held-out ones{alike}: were they trained on, or do they vary less?"
            )
        return (
            f"there are more unusual images than there were among the held-out ones{alike}. Look at the most anomalous "
            "ones: if they are normal, calibrate or train again"
        )

    def as_rows(self) -> list[tuple[str, ...]]:
        """For a table: a header, then window by window."""
        rows: list[tuple[str, ...]] = [
            ("from", "to", "images", "mean p-value", f"share of p ≤ {self.alpha:g}", "p of no change")
        ]
        for one in self.windows:
            figures = f"{one.mean_p_value:.2f}", f"{one.share_of_anomalies:.3f}", f"{one.p_same:.2g}"
            rows.append((one.first, one.last, str(one.n_images), *figures))
        return rows


def monitor(
    detector: Engine,
    names: Sequence[str],
    scores: Scores,
    window: int = 100,
    looks: Looks | None = None,
) -> Drift:
    """Compare the scores of images, named in the order in which they came, with those of the held-out images.

    Args:
        window: images of a window; the last one takes what is left.
        looks: of these images; none: what has changed is not named.

    Raises:
        DataError: if there are fewer than 10 images.
    """
    n = len(scores)
    if n < FEWEST:
        raise DataError(f"{n} images are too few to tell whether anything has changed; give at least {FEWEST}")
    starts = list(range(0, max(1, n - window // 2), window))
    usual = detector.training.get("appearance")
    known = np.concatenate(looks.appearance) if looks else None
    windows = []
    for start, end in zip(starts, [*starts[1:], n], strict=True):
        p_value, p_same = scores.p_value[start:end], same_source(detector, scores.anomaly_score[start:end])
        called = p_value <= detector.alpha
        p_called = more_called(detector, int(called.sum()), len(called))
        has_drifted = min(p_same, p_called) < ALARM / len(starts)
        if known is not None and usual is not None:
            has_drifted = has_drifted or bool(changes(known[start:end], usual, OBVIOUS))
        windows.append(
            Window(
                names[start], names[end - 1], end - start, float(p_value.mean()), float(called.mean()), p_same,
                has_drifted, p_called,
            )
        )  # fmt: skip
    drifted = np.array([one.has_drifted for one in windows])
    if looks is None or known is None or usual is None or not drifted.any():
        return Drift(windows, detector.alpha, bool(drifted.any()))
    of_drifted = np.repeat(drifted, [one.n_images for one in windows])
    said = changes(known[of_drifted], usual)
    if looks.sizes and "recalibrated_on" not in detector.training:  # else the usual size is not known
        before = np.array(detector.training["original_size"])
        now = np.median(np.array(looks.sizes)[of_drifted], 0).round().astype(int)
        if (np.abs(now - before) > OTHER_SIZE * before).any():
            said.append(f"size {before[1]}×{before[0]} → {now[1]}×{now[0]} (width × height)")
    return Drift(windows, detector.alpha, True, said, is_known=True)


def more_called(detector: Engine, n_called: int, n: int) -> float:
    """Chance that of n images like the held-out ones at least so many are called anomalies (beta-binomial, exact)."""
    from scipy.stats import betabinom

    rank = Calibration(detector.held_out_scores, detector.alpha).rank
    return float(betabinom.sf(n_called - 1, n, rank, len(detector.held_out_scores) + 1 - rank)) if rank else 1.0


def same_source(detector: Engine, anomaly_score: FloatArray) -> float:
    """p-value of the hypothesis that n images score like the held-out ones (Kolmogorov–Smirnov, two samples).

    With folds, a held-out image was scored by the networks of one fold and a new one by all of them. Normal images then
    have two distributions of scores, nearly the same, and only what is beyond that difference counts.
    """
    from scipy.stats import ks_2samp, kstwo

    held_out, notes = detector.held_out_scores, detector.training
    same = ks_2samp(anomaly_score, held_out)
    if not notes.get("n_folds") or "recalibrated_on" in notes:
        return float(same.pvalue)
    n = len(anomaly_score) * len(held_out) / (len(anomaly_score) + len(held_out))
    return float(kstwo.sf(max(0.0, same.statistic - TOLERATED), max(1, round(n))))

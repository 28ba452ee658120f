"""Scoring by many workers: parts of a source → rows, in the source's order or as files of Parquet."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alocc.calibration import CANT_TELL
from alocc.data.entries import Skipped
from alocc.data.reading import batch_size
from alocc.data.sources import ArraySource, EntrySource, Source
from alocc.errors import ConfigError
from alocc.scale.cluster import cluster
from alocc.scores import Progress
from alocc.scoring.journal import from_line, to_line
from alocc.scoring.stream import Engine, Rows, score_batches
from alocc.scoring.table import VERDICT, Totals, as_arrow

if TYPE_CHECKING:
    from alocc.data.images import ImageFormat

BATCHES = 4
"""Batches that a worker gets at a time, at most."""
ROWS_PER_FILE = 250_000
"""Of a folder in parts, about, but for the last file."""
INDEX = "index"
"""First column of files in parts: sorted by it, the rows are in the source's order."""


@dataclass(frozen=True)
class Workers:
    """What scores in other processes: where its detector is, and where they are."""

    detector: Engine
    """The same, here: what it is, not what scores."""
    model: Path
    """Run folder, detector or exported file, which every machine of the cluster must see under this path."""
    alpha: float | None = None
    """False-positive rate, if not the detector's."""
    address: str | None = None
    """Of a cluster; none: processes of this machine."""
    review_alpha: float | None = None
    """Rate up to which images are for a person, if not the detector's."""
    n: int | None = None
    """Workers at a time; none: as many as the cluster has CPUs."""

    def check(self, source: Source) -> None:
        """Refuse what cannot be cut into parts.

        Raises:
            ConfigError: if it is a video.
        """
        if not isinstance(source, EntrySource | ArraySource):
            raise ConfigError(f"--engine ray cannot cut {source.where} into parts; leave it out, or give images")

    def score(self, source: Source, progress: Progress) -> Iterator[Rows]:
        """Rows of a source in its order, as :func:`score_batches` gives them, but that none need be usable."""
        from ray.data import DataContext

        with cluster(self.address, self.n) as n_workers:
            DataContext.get_current().execution_options.preserve_order = True
            scored = self._dataset(source, n_workers, "lines")
            for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
                for line in batch["lines"].to_pylist():
                    rows = from_line(line)
                    progress(len(rows.names))
                    yield rows

    def write(self, source: Source, folder: Path) -> None:
        """Write the rows of a source as files of Parquet, by the workers themselves, in no order."""
        with cluster(self.address, self.n) as n_workers:
            scored = self._dataset(source, n_workers, "table")
            scored.write_parquet(os.fspath(folder.absolute()), min_rows_per_file=ROWS_PER_FILE)

    def _dataset(self, source: Source, n_workers: int, form: str) -> Any:
        from ray.data import ActorPoolStrategy, DataContext, from_items

        DataContext.get_current().enable_progress_bars = False
        parts = list(_parts(source, self.detector.image_format, n_workers))
        rates = {"alpha": self.alpha, "review_alpha": self.review_alpha}
        worker = {"model": self.model.absolute(), "form": form, **rates}
        return from_items(parts, override_num_blocks=len(parts)).map_batches(
            _Worker,
            fn_constructor_kwargs=worker,
            batch_size=1,
            num_cpus=1,
            compute=ActorPoolStrategy(min_size=1, max_size=n_workers, initial_size=min(n_workers, len(parts))),
        )


def _parts(source: Source, to: ImageFormat, n_workers: int) -> Iterator[dict[str, Any]]:
    """The source in parts of whole batches, each small enough that every worker gets several."""
    size = batch_size(to)
    step = size * max(1, min(BATCHES, len(source) // (size * 4 * n_workers)))
    for start in range(0, len(source), step):
        part = source[start : start + step]
        if isinstance(part, EntrySource):  # other processes have other working folders
            part.entries = [
                replace(one, content=os.path.abspath(one.content)) if isinstance(one.content, str | Path) else one  # noqa: PTH100
                for one in part.entries
            ]
        yield {"first": start and start + len(source.unusable), "source": pickle.dumps(part)}


def totals_of(folder: Path) -> Totals:
    """What the files of a folder that workers wrote hold."""
    import pyarrow.dataset

    totals = Totals()
    unusable: list[tuple[int, Skipped]] = []
    files = pyarrow.dataset.dataset(folder, format="parquet")
    with_verdicts = VERDICT in files.schema.names
    verdict = [VERDICT] if with_verdicts else []
    for batch in files.to_batches(columns=[INDEX, "path", "is_anomaly", *verdict, "error"]):
        skipped = batch.filter(batch["error"].is_valid()).to_pylist()
        unusable += [(row[INDEX], Skipped(row["path"], row["error"])) for row in skipped]
        totals.n_images += len(batch) - len(skipped)
        totals.n_anomalies += batch["is_anomaly"].sum().as_py() or 0
        totals.n_review += batch[VERDICT].to_pylist().count(CANT_TELL) if with_verdicts else 0
    totals.skipped = [item for _, item in sorted(unusable)]
    return totals


class _Worker:
    """A process that loads the detector once, and scores parts of the source."""

    def __init__(self, model: Path, form: str, alpha: float | None, review_alpha: float | None) -> None:
        self.detector, self.form = load(model, alpha, review_alpha), form

    def __call__(self, part: dict[str, Any]) -> Any:
        [first], [pickled] = part["first"], part["source"]
        source: Source = pickle.loads(pickled)
        with_classes = bool(source.class_names)
        batches = source.batches(self.detector.image_format)
        rows = score_batches(self.detector, batches, with_classes=with_classes, going_on=True)
        if self.form == "lines":
            return {"lines": list(map(to_line, rows))}
        totals = Totals(with_classes=with_classes)
        table = [{INDEX: index} | row for index, row in enumerate(totals.rows(rows), int(first))]
        return as_arrow(table, (INDEX, *totals.columns))


def load(model: Path, alpha: float | None, review_alpha: float | None = None) -> Engine:
    """What scores in one process: a detector, or an exported file."""
    from alocc.detector import Detector
    from alocc.scoring.open import is_exported, open_exported

    if is_exported(model):
        return open_exported(model, None, alpha, threads=1, review_alpha=review_alpha)
    return Detector.load(model).at(alpha, review_alpha)

"""``alocc-score MODEL DATA``, or ``python -m alocc.runtime``: a table of scores, without torch."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from alocc.data.decoding import read_brought_to
from alocc.data.entries import Entry, Skipped, find_entries
from alocc.errors import ConfigError, DataError, InputError
from alocc.runtime import Runtime
from alocc.scores import Progress, Scores
from alocc.storage import replacing

COLUMNS = ("path", "anomaly_score", "p_value", "is_anomaly", "error")
Item = TypeVar("Item")
AT_ONCE = 256
"""Images that are decoded and wait together."""


def score_entries(
    runtime: Runtime, entries: Sequence[Entry], progress: Progress | None = None
) -> tuple[list[str], Scores, list[Skipped]]:
    """Names and scores of images that can be used, and the others: some are decoded while those before are judged."""
    names, skipped = [], []
    several = [runtime.score(np.empty((0, *runtime.image_format.size), np.uint8))]

    def read(entry: Entry) -> NDArray[np.uint8] | Skipped:
        try:
            return read_brought_to(entry.content, entry.name, entry.page, runtime.image_format)
        except DataError as error:
            return Skipped(entry.name, str(error))

    with ThreadPoolExecutor() as pool:
        for chunk, images in _one_ahead((chunk, pool.map(read, chunk)) for chunk in _chunks(entries)):
            found = list(zip(chunk, images, strict=True))
            skipped += [image for _, image in found if isinstance(image, Skipped)]
            good = [(entry.name, image) for entry, image in found if not isinstance(image, Skipped)]
            names += [name for name, _ in good]
            if good:
                several.append(runtime.score(np.stack([image for _, image in good]), progress))
    return names, Scores.joined(several), skipped


def _chunks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), AT_ONCE):
        yield entries[start : start + AT_ONCE]


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Each item once the one behind it is begun."""
    before, after = itertools.tee(items)
    next(after, None)
    for item in before:
        next(after, None)
        yield item


def write_csv(file: IO[str], names: Sequence[str], scores: Scores, skipped: Sequence[Skipped]) -> None:
    """One row an image, as ``alocc score`` writes them."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, *numbers, verdict in zip(names, scores.anomaly_score, scores.p_value, scores.is_anomaly, strict=True):
        writer.writerow((name, *map(float, numbers), str(bool(verdict)).lower(), ""))
    writer.writerows((item.name, "", "", "", item.reason) for item in skipped)


def main() -> None:
    """Exit code 0, or 2 for bad input."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    warnings.filterwarnings("ignore", module="PIL")
    try:
        _run(_arguments())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read the table has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="alocc-score", description="Score images with an exported detector.")
    parser.add_argument("model", metavar="MODEL", help="an exported detector: model.onnx, or model.xml of OpenVINO")
    parser.add_argument(
        "data", metavar="DATA", help="images: a folder, a pattern, a table of paths, an archive, a file"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="file to write; default: standard output")
    parser.add_argument("--alpha", type=float, help="false-positive rate; default: the detector's own")
    parser.add_argument("--threads", type=int, default=2, help="that a batch is computed with; default: 2")
    return parser.parse_args()


def _run(given: argparse.Namespace) -> None:
    if given.out and given.out.suffix != ".csv":
        raise ConfigError(f"--out {given.out}: the file must end in .csv")
    if given.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {given.threads}")
    runtime = Runtime(given.model, given.threads, given.alpha)
    try:
        entries, unusable = find_entries(Path(given.data), given.data, "test")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise DataError(f"{given.data} cannot be read ({error.strerror or error})") from None
    if not entries:
        raise DataError(f"{given.data} holds no image files")
    names, scores, skipped = score_entries(runtime, entries)
    skipped = [*unusable, *skipped]
    if not names:
        raise DataError(f"none of the {len(skipped)} images can be used; the first: {skipped[0].reason}")
    if given.out:
        with (
            replacing(given.out) as path,
            path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            write_csv(file, names, scores, skipped)
    else:
        write_csv(sys.stdout, names, scores, skipped)
    for item in skipped:
        print(f"skipped: {item.reason}", file=sys.stderr)
    written = f"; {given.out} written" if given.out else ""
    n_anomalies = int(scores.is_anomaly.sum())
    print(
        f"{n_anomalies:,} of {len(names):,} images are anomalies at alpha {runtime.alpha:g}{written}", file=sys.stderr
    )


if __name__ == "__main__":
    main()

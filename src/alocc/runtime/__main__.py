"""``alocc-score MODEL DATA``, or ``python -m alocc.runtime``: a table of scores, and pictures, without torch."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from alocc.data.entries import find_entries, visible
from alocc.data.reading import read_batches
from alocc.errors import AloccError, ConfigError, DataError, InputError, UselessDetectorWarning
from alocc.runtime import Runtime
from alocc.scoring.stream import WithMaps, score_batches
from alocc.scoring.table import check_table_path, write_table
from alocc.streams import standard_streams

if TYPE_CHECKING:
    from alocc.map_pictures import MapPictures


def main() -> None:
    """Exit code 0, 2 for bad input, 1 for a failure, or 130 if interrupted."""
    warnings.filterwarnings("ignore", module="PIL")
    warnings.filterwarnings("ignore", category=UselessDetectorWarning)  # a line says it
    try:
        with standard_streams():
            _run(_arguments())
    except AloccError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="alocc-score", description="Score images with an exported detector.")
    parser.add_argument("model", metavar="MODEL", help="an exported detector: model.onnx, or model.xml of OpenVINO")
    parser.add_argument(
        "data", metavar="DATA", help="images: a folder, a pattern, a table of paths, an archive, a file"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help=".csv, .jsonl or .parquet; default: CSV to stdout")
    parser.add_argument(
        "--maps", type=_folder, metavar="DIR", help="folder for pictures of anomalies, with where they are; needs SciPy"
    )
    parser.add_argument("--alpha", type=float, help="false-positive rate; default: the detector's own")
    parser.add_argument(
        "--review-alpha",
        type=float,
        help="up to this p-value, what is no anomaly is for a person; 0: none; default: the detector's own",
    )
    parser.add_argument("--threads", type=int, default=2, help="that a batch is computed with; default: 2")
    return parser.parse_args()


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("must be a folder, got nothing")
    return Path(text)


def _run(given: argparse.Namespace) -> None:
    if given.out:
        check_table_path(given.out, maps=given.maps)
    if given.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {given.threads}")
    runtime = Runtime(given.model, given.threads, given.alpha, given.review_alpha)
    if runtime.health and runtime.health.warning:
        print(f"warning: {visible(runtime.health.warning)}", file=sys.stderr)
    pictures = _pictures(runtime, given) if given.maps else None
    try:
        entries, unusable = find_entries(Path(given.data), given.data, "test")
    except OSError as error:  # a name that is too long, a folder that may not be entered
        raise DataError(f"{given.data} cannot be read ({error.strerror or error})") from None
    if not entries:
        raise DataError(f"{given.data} holds no image files")
    batches = read_batches(entries, runtime.image_format, unusable)
    with_classes = any(entry.class_name for entry in entries)
    rows = score_batches(
        WithMaps(runtime, runtime.calibration) if pictures else runtime,
        batches,
        with_classes=with_classes,
        regions=(lambda batch, scores: runtime.regions(batch.images, scores, sizes=batch.sizes)) if pictures else None,
        each=pictures.add if pictures else None,
    )
    totals = write_table(rows, given.out, with_boxes=bool(pictures))
    if pictures:
        pictures.finish()
        print(visible(pictures.summary), file=sys.stderr)
    for item in totals.skipped:
        print(f"skipped: {visible(item.reason)}", file=sys.stderr)
    written = f"; {given.out} written" if given.out else ""
    print(totals.summary(runtime) + written, file=sys.stderr)


def _pictures(runtime: Runtime, given: argparse.Namespace) -> MapPictures:
    try:
        from alocc.map_pictures import MapPictures
    except ModuleNotFoundError as error:
        raise ConfigError(f"--maps needs {error.name}; install it with: pip install {error.name}") from None
    return MapPictures(runtime, given.maps, "anomalies", given.data)


if __name__ == "__main__":
    main()

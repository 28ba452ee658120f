"""Scoring an exported detector without torch: NumPy, Pillow and ONNX Runtime (or OpenVINO) are enough.

::

    scores = Runtime("model.onnx").score(images)
    scores.anomaly_score, scores.p_value, scores.is_anomaly

and ``python -m alocc.runtime model.onnx parts/ --out scores.csv``. The numbers are those of the detector that was
exported (:mod:`alocc.export` checks that before it leaves a file).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from alocc.conformal import FloatArray, check_alpha, threshold_at
from alocc.data.decoding import read_brought_to
from alocc.data.entries import Entry, Skipped, find_entries
from alocc.data.resizing import ImageFormat, brought_to
from alocc.errors import ArtefactError, ConfigError, DataError, InputError
from alocc.scores import Progress, Scores
from alocc.storage import replacing

KIND = "exported detector"
METADATA_KEY = "alocc"
EXPORT_VERSION = 1
SUFFIXES = (".onnx", ".xml")
BATCH = 64
"""Images, or tiles, that are judged together."""
AT_ONCE = 256
"""Images that are decoded and wait together."""
COLUMNS = ("path", "anomaly_score", "p_value", "is_anomaly", "error")

Outputs = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]


class Session(Protocol):
    """A graph that an engine has loaded."""

    metadata: Mapping[str, Any]
    smallest_batch: int
    """Batches are filled up to this: from there on, an image's numbers do not depend on how many there are."""

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """anomaly_score, p_value and is_anomaly of each image."""


class Runtime:
    """An exported detector.

    Args:
        path: an ``.onnx`` file, or the ``.xml`` of an OpenVINO model with its ``.bin`` beside it.
        threads: that a batch is computed with.
        alpha: false-positive rate of ``is_anomaly``; none: the detector's.

    Raises:
        ArtefactError: if the file is missing, damaged, or was not written by ``alocc export``.
        ConfigError: if the held-out images cannot support alpha, or the engine is not installed.
    """

    def __init__(self, path: str | Path, threads: int = 2, alpha: float | None = None) -> None:
        self.path = Path(path)
        self._session = _opened(self.path, threads)
        try:
            self._read(_checked(self._session.metadata, self.path))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{path} is damaged: its notes are not whole ({error})") from None
        if alpha is not None:
            check_alpha(alpha, len(self.held_out_scores))
            self.alpha = alpha

    def _read(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.image_format = ImageFormat(**metadata["image_format"])
        self.alpha = float(metadata["alpha"])
        self.held_out_scores: FloatArray = np.array(metadata["held_out_scores"], np.float64)
        self._channels_first = metadata["layout"] == "nchw"
        self._batch = max(1, BATCH // int(metadata["n_tiles"]))

    @property
    def threshold(self) -> float:
        """An image is an anomaly if and only if its anomaly score is above this."""
        return threshold_at(self.alpha, self.held_out_scores)

    def score(self, images: NDArray[np.generic], progress: Progress | None = None) -> Scores:
        """Score images; an image's numbers do not depend on the others it is scored with.

        Args:
            images: (n, H, W) or (n, H, W, C), uint8, of any size.
            progress: told of the number of images of each finished batch.

        Raises:
            DataError: if the images have a wrong shape or type.
        """
        images = self._accepted(images)
        batches = [_nothing()]
        for start in range(0, len(images), self._batch):
            chunk = images[start : start + self._batch]
            batches.append(self._judged(brought_to(chunk, self.image_format)))
            if progress:
                progress(len(chunk))
        return self._scores(batches)

    def score_in_one(self, images: NDArray[np.generic]) -> Scores:
        """:func:`score` by one call of the graph, which resizes the images itself if it can."""
        return self._scores([self._judged(self._accepted(images))])

    def _accepted(self, images: NDArray[np.generic]) -> NDArray[np.uint8]:
        images = np.asarray(images)
        if images.dtype != np.uint8:
            raise DataError(
                f"an exported detector takes uint8 images, got {images.dtype}; the torch engine takes floats"
            )
        if images.ndim == 3 and images.shape[2] == 3 and self.image_format.channels == 3:
            raise DataError(f"{images.shape} looks like one colour image; give image[None], (1, H, W, 3)")
        return images.astype(np.uint8, copy=False)

    def _scores(self, batches: Sequence[Outputs]) -> Scores:
        anomaly_score, p_value = (np.concatenate([batch[i] for batch in batches]).astype(np.float64) for i in (0, 1))
        n = len(self.held_out_scores)
        p_value = np.rint(p_value * (n + 1)) / (n + 1)  # the quotient of two whole numbers, in full precision again
        return Scores(anomaly_score, p_value, p_value <= self.alpha, {}, None, self.alpha)

    def _judged(self, images: NDArray[np.uint8]) -> Outputs:
        n = len(images)
        missing = self._session.smallest_batch - n
        if missing > 0:
            images = np.concatenate([images, np.repeat(images[-1:], missing, 0)])
        if self._channels_first:
            images = images.transpose(0, 3, 1, 2)
        anomaly_score, p_value, is_anomaly = self._session.run(np.ascontiguousarray(images))
        return anomaly_score[:n], p_value[:n], is_anomaly[:n]


def _nothing() -> Outputs:
    return np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.bool_)


def _opened(path: Path, threads: int) -> Session:
    if path.suffix not in SUFFIXES:
        raise ArtefactError(f"{path} is no exported detector: its name must end in {' or '.join(SUFFIXES)}")
    if not path.is_file():
        raise ArtefactError(f"{path} does not exist")
    try:
        return OnnxSession(path, threads) if path.suffix == ".onnx" else OpenVinoSession(path, threads)
    except ImportError:
        name, extra = ("onnxruntime", "runtime") if path.suffix == ".onnx" else ("openvino", "openvino")
        raise ConfigError(f"{path} needs {name}; install it with: pip install 'alocc[{extra}]'") from None
    except InputError:
        raise
    except Exception as error:  # engines raise all kinds on files that are not what they say
        reason = str(error).strip().partition("\n")[0][:200]
        raise ArtefactError(f"{path} is damaged or no model that this engine knows ({reason})") from None


def _checked(metadata: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping) or metadata.get("kind") != KIND:
        raise ArtefactError(f"{path} was not written by alocc export")
    if metadata["export_version"] != EXPORT_VERSION:
        raise ArtefactError(f"{path} was written by another version of alocc; export the detector again")
    return metadata


class OnnxSession:
    """ONNX Runtime on the CPU."""

    smallest_batch = 1

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4  # what goes wrong is raised; it need not be printed too
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as docs/decisions/0009
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        notes = self._session.get_modelmeta().custom_metadata_map
        self.metadata = json.loads(notes.get(METADATA_KEY, "null"))

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See :class:`Session`."""
        outputs: Outputs = self._session.run(["anomaly_score", "p_value", "is_anomaly"], {"images": images})
        return outputs


class OpenVinoSession:
    """OpenVINO on the CPU, in 32 bits: by itself it takes 16 where the processor can."""

    smallest_batch = BATCH

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        if not path.with_suffix(".bin").is_file():
            raise ArtefactError(f"{path} needs {path.with_suffix('.bin').name} beside it, which does not exist")
        core = openvino.Core()
        model = core.read_model(path)
        notes = model.get_rt_info(METADATA_KEY).astype(str) if model.has_rt_info([METADATA_KEY]) else "null"
        self.metadata = json.loads(notes)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        self._compiled = core.compile_model(model, "CPU", settings)

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        """See :class:`Session`."""
        found = self._compiled({"images": images})
        return found["anomaly_score"].copy(), found["p_value"].copy(), found["is_anomaly"].astype(np.bool_)


def score_entries(
    runtime: Runtime, entries: Sequence[Entry], progress: Progress | None = None
) -> tuple[list[str], Scores, list[Skipped]]:
    """Decode and score images in bounded memory: names and scores of those that can be used, and the others."""
    names, skipped = [], []
    several = [runtime.score(np.empty((0, *runtime.image_format.size), np.uint8))]

    def read(entry: Entry) -> NDArray[np.uint8] | Skipped:
        try:
            return read_brought_to(entry.content, entry.name, entry.page, runtime.image_format)
        except DataError as error:
            return Skipped(entry.name, str(error))

    with ThreadPoolExecutor() as pool:
        for chunk in _chunks(entries):
            found = list(zip(chunk, pool.map(read, chunk), strict=True))
            skipped += [image for _, image in found if isinstance(image, Skipped)]
            good = [(entry.name, image) for entry, image in found if not isinstance(image, Skipped)]
            names += [name for name, _ in good]
            if good:
                several.append(runtime.score(np.stack([image for _, image in good]), progress))
    return names, Scores.joined(several), skipped


def _chunks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    for start in range(0, len(entries), AT_ONCE):
        yield entries[start : start + AT_ONCE]


def write_csv(file: IO[str], names: Sequence[str], scores: Scores, skipped: Sequence[Skipped]) -> None:
    """One row an image, as ``alocc score`` writes them."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, *numbers, verdict in zip(names, scores.anomaly_score, scores.p_value, scores.is_anomaly, strict=True):
        writer.writerow((name, *map(float, numbers), str(bool(verdict)).lower(), ""))
    writer.writerows((item.name, "", "", "", item.reason) for item in skipped)


def main() -> None:
    """``alocc-score``, or ``python -m alocc.runtime``. Exit code 0, or 2 for bad input."""
    warnings.filterwarnings("ignore", module="PIL")
    try:
        _run(_arguments())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


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
    runtime = Runtime(given.model, given.threads, given.alpha)
    entries, unusable = find_entries(Path(given.data), given.data, "test")
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

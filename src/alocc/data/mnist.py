"""MNIST: what the package carries, what is on disk, and, last, what can be downloaded.

The whole test set and the training images of the digit 1 come with the package, so the article's experiment needs no
network. Other digits need the full training set.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from collections.abc import Collection
from contextlib import closing, suppress
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from alocc.data.entries import check_classes
from alocc.errors import DataError

Split = Literal["train", "test"]

MAX_UNPACKED = 2 << 30  # bytes of a file of arrays that is unpacked into memory
CLASSES = tuple("0123456789")
EMBEDDED_TRAINING_CLASS = "1"
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
# of the uncompressed files, so that any gzip of them will do
CONTENT_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}


def load_mnist(split: Split, classes: Collection[str] | None = None) -> tuple[NDArray[np.uint8], NDArray[np.str_]]:
    """Images (n, 28, 28), uint8, and their class names "0"…"9", in the database's order; of some classes, or all.

    A DataError if a class is no digit, or the full training set is needed and neither on disk nor to be downloaded.
    """
    check_classes(classes, CLASSES, "mnist")
    wanted = set(CLASSES if classes is None else classes)
    if split == "train" and wanted == {EMBEDDED_TRAINING_CLASS}:
        images = read_idx(_embedded("train-1-images-idx3-ubyte"))
        return images, np.full(len(images), EMBEDDED_TRAINING_CLASS)
    read, part = (_embedded, "t10k") if split == "test" else (_full, "train")
    images, labels = (read_idx(read(f"{part}-{kind}-ubyte")) for kind in ("images-idx3", "labels-idx1"))
    names = labels.astype(np.str_)
    keep = np.isin(names, sorted(wanted))
    return images[keep], names[keep]


def read_idx(content: bytes | bytearray) -> NDArray[np.uint8]:
    """Parse the IDX format: two zero bytes, type 8 (uint8), number of dimensions, big-endian sizes, then the data."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError("not an IDX file of unsigned bytes")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError("IDX file is truncated: its sizes are not all there")
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4).tolist()
    if len(content) != start + math.prod(shape):
        raise DataError(
            f"IDX file is truncated or damaged: {len(content)} bytes do not hold {'×'.join(map(str, shape))}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_unpacked(path: Path) -> bytearray:
    """Content of a file, unpacked if its name ends in .gz; a DataError from ``MAX_UNPACKED`` bytes on."""
    content = bytearray()
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        while chunk := file.read(1 << 20):
            content += chunk
            check_unpacked(len(content))
    return content


def check_unpacked(n_bytes: int) -> None:
    """Refuse, with a DataError, more bytes than are unpacked into memory."""
    if n_bytes > MAX_UNPACKED:
        raise DataError(f"more than {MAX_UNPACKED:,} bytes unpacked; save it as .npy, which is read piece by piece")


def cache_folder() -> Path:
    """Where downloads go and manual copies may be put."""
    import pooch

    return Path(pooch.os_cache("alocc")) / "mnist"


def _embedded(name: str) -> bytes:
    return gzip.decompress((resources.files("alocc.data") / "embedded" / "mnist" / f"{name}.gz").read_bytes())


def _full(name: str) -> bytes | bytearray:
    path = _on_disk(name)
    return _checked_content(path, name) if path else _downloaded(name)


def _on_disk(name: str) -> Path | None:
    folders = [Path(os.environ["ALOCC_DATA"]) / "mnist"] if "ALOCC_DATA" in os.environ else []
    places = (folder / file for folder in (*folders, cache_folder()) for file in (f"{name}.gz", name))
    return next(filter(Path.is_file, places), None)


def _checked_content(path: Path, name: str) -> bytearray:
    try:
        content = read_unpacked(path)
    except (OSError, EOFError, zlib.error, DataError) as error:
        raise DataError(f"{path} cannot be read ({error}); delete it to have it downloaded again") from None
    if hashlib.sha256(content).hexdigest() != CONTENT_SHA256[name]:
        raise DataError(f"{path} is not MNIST's {name}: its SHA-256 differs; delete it to have it downloaded again")
    return content


def _downloaded(name: str) -> bytearray:
    import pooch
    import requests

    archive, folder = f"{name}.gz", cache_folder()
    pooch.get_logger().setLevel("WARNING")
    for mirror in MIRRORS:
        with closing(_DownloadBar(archive)) as bar, suppress(requests.RequestException, OSError):
            # the check is ours, of the content: mirrors compress the same files differently
            downloader = pooch.HTTPDownloader(progressbar=bar, timeout=20)
            path = Path(pooch.retrieve(mirror + archive, None, archive, folder, downloader=downloader))
            try:
                return _checked_content(path, name)
            except DataError:
                path.unlink()
    raise DataError(
        f"the full MNIST training set is not on this machine and cannot be downloaded; put {archive} into {folder}, "
        "or into a folder called mnist and set ALOCC_DATA to the folder that holds that one "
        f"(only the digit {EMBEDDED_TRAINING_CLASS} comes with alocc)"
    )


class _DownloadBar:
    """What pooch asks of a progress bar, of bytes."""

    total: int | None = None

    def __init__(self, description: str) -> None:
        from alocc.progress import open_bar

        self.bar = open_bar()
        self.task = self.bar.add_task(description, total=None, note="bytes")
        self.bar.start()

    def update(self, n_bytes: int) -> None:
        self.bar.update(self.task, advance=n_bytes, total=self.total)

    def reset(self) -> None:
        self.bar.update(self.task, completed=0)

    def close(self) -> None:
        self.bar.stop()

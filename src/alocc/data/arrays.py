"""Files of arrays: NumPy's .npy and .npz, and IDX (MNIST's format), gzipped or not."""

from __future__ import annotations

import re
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alocc.data.mnist import check_unpacked, read_idx, read_unpacked
from alocc.data.resizing import check_images
from alocc.errors import DataError

IMAGE_KEYS = ("images", "x", "X", "x_train", "data", "arr_0")
LABEL_KEYS = ("labels", "y", "Y", "y_train", "targets", "arr_1")
IDX_NAME = re.compile(r"idx\d-ubyte(\.gz)?$|\.idx(\.gz)?$")


class ArrayFile:
    """An .npy file as an array: a part is read when it is asked for, and then nothing of the file stays in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path.absolute(), slice(0, None)
        array = self._mapped()
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, part: slice | NDArray[np.generic]) -> NDArray[np.generic]:
        # a map of its own: the pages that a map has shown count as this process's memory as long as it lives
        return np.array(self._mapped()[self.rows][part])

    def part(self, rows: slice) -> ArrayFile:
        """Some of its rows, none of which is read yet."""
        some = copy(self)
        kept = range(self.rows.start, self.rows.start + len(self))[rows]
        some.rows, some.shape = slice(kept.start, kept.stop), (len(kept), *self.shape[1:])
        return some

    def _mapped(self) -> NDArray[np.generic]:
        array: NDArray[np.generic] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return array


def is_array_file(path: Path) -> bool:
    """Whether a file holds arrays, by its name."""
    return path.suffix.lower() in (".npy", ".npz") or bool(IDX_NAME.search(path.name.lower()))


def read_arrays(path: Path, where: str = "") -> tuple[NDArray[np.generic] | ArrayFile, NDArray[np.str_]]:
    """Images (n, H, W[, C]), uint8 or float in [0, 1], and the class of each, "" where there are no labels.

    An .npy file is read piece by piece. Labels stand in the same .npz file, or, for IDX, in the file whose name has
    "labels" for "images". Nothing is unpickled. A DataError if there are no such arrays, or more than 2 GiB of them.
    """
    images: NDArray[np.generic] | ArrayFile
    where = where or str(path)  # the path may be that of a copy
    try:
        if path.suffix.lower() == ".npy":
            images, labels = ArrayFile(path), None
        elif path.suffix.lower() == ".npz":
            images, labels = _from_npz(path)
        else:
            images = read_idx(read_unpacked(path))
            beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
            labels = read_idx(read_unpacked(beside)) if beside != path and beside.exists() else None
        check_images(images.shape, images.dtype)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except Exception as error:  # damaged files raise all kinds
        raise DataError(f"{where} cannot be read as arrays ({error})") from None
    if not len(images):
        raise DataError(f"{where} holds no images: its array is {images.shape}")
    if labels is None:
        return images, np.full(len(images), "")
    if labels.shape != images.shape[:1]:
        raise DataError(f"{where} has {len(images)} images, but labels of shape {labels.shape}")
    return images, labels.astype(np.str_)


def _from_npz(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic] | None]:
    with np.load(path, allow_pickle=False) as arrays:
        names = list(arrays)
        image_key = next((key for key in IMAGE_KEYS if key in names), names[0] if len(names) == 1 else None)
        if image_key is None:
            raise DataError(f"which of its arrays are the images? Name them images; there are: {', '.join(names)}")
        label_key = next((key for key in LABEL_KEYS if key in names and key != image_key), None)
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in arrays.zip.infolist()}
        check_unpacked(sizes[image_key] + sizes.get(label_key or "", 0))
        return arrays[image_key], arrays[label_key] if label_key else None

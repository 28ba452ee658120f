"""Files of arrays: what they may hold, and how much of it."""

import gzip
import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from alocc.data import mnist
from alocc.data.arrays import read_arrays
from alocc.data.sources import open_source
from alocc.errors import DataError

IMAGES = np.arange(3 * 20 * 30, dtype=np.uint32).astype(np.uint8).reshape(3, 20, 30)
GZIP_OF_1_MB = gzip.compress(bytes(1 << 20))


def idx_header(*shape):
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_claiming(shape, data=b"", dtype="|u1"):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def npz(path, compression=zipfile.ZIP_DEFLATED, **members):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


@pytest.fixture
def small_limit(monkeypatch):
    """As little may be unpacked as takes no time to make: 10 MB."""
    monkeypatch.setattr(mnist, "MAX_UNPACKED", 10 << 20)


def peak_of(refused):
    """The most bytes that are held while something is refused."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"more than 10,485,760 bytes unpacked; save it as \.npy"):
            refused()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_limit_is_2_gib():
    assert mnist.MAX_UNPACKED == 2 * 1024**3


def test_a_small_gzip_of_much_is_refused_in_bounded_memory(tmp_path, small_limit):
    path = tmp_path / "x-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_header(200, 1024, 1024)) + GZIP_OF_1_MB * 200)
    assert path.stat().st_size < 300_000
    assert peak_of(lambda: read_arrays(path)) < 40 << 20


def test_a_small_gzip_of_many_labels_is_refused_too(tmp_path, small_limit):
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx_header(*IMAGES.shape) + IMAGES.tobytes())
    (tmp_path / "x-labels-idx1-ubyte").write_bytes(idx_header(20 << 20) + bytes(20 << 20))
    assert peak_of(lambda: read_arrays(tmp_path / "x-images-idx3-ubyte")) < 40 << 20


def test_what_fills_the_limit_is_read(tmp_path, small_limit):
    side = 1 << 10
    content = idx_header(9, side, side) + bytes(9 * side * side)
    (tmp_path / "x-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    images, labels = read_arrays(tmp_path / "x-images-idx3-ubyte.gz")
    assert images.shape == (9, side, side) and labels.tolist() == [""] * 9


def test_a_small_npz_of_much_is_refused_before_it_is_unpacked(tmp_path, small_limit):
    large = npy(np.zeros((20, 1024, 1024), np.uint8))
    path = npz(tmp_path / "x.npz", images=large)
    assert path.stat().st_size < 300_000 and peak_of(lambda: read_arrays(path)) < 2 << 20
    many_labels = npz(tmp_path / "y.npz", images=npy(IMAGES), labels=npy(np.zeros(20 << 20, np.uint8)))
    assert peak_of(lambda: read_arrays(many_labels)) < 2 << 20
    beside = npz(tmp_path / "z.npz", images=npy(IMAGES), something=large)  # not read, so of no matter
    np.testing.assert_array_equal(read_arrays(beside)[0], IMAGES)


def test_full_mnist_files_are_unpacked_within_the_limit_too(tmp_path, small_limit, monkeypatch):
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz").write_bytes(GZIP_OF_1_MB * 200)
    monkeypatch.setenv("ALOCC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz cannot be read \(more than 10,485,760 bytes"):
        mnist.load_mnist("train")


HUGE = [(10**6, 10**6, 10**6), (2**32, 2**32, 16), (2**62, 4, 1), (-1, 20, 30), (3, 20, 31)]


@pytest.mark.parametrize("shape", HUGE)
def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path, shape):
    (tmp_path / "x.npy").write_bytes(npy_claiming(shape, IMAGES.tobytes()))
    npz(tmp_path / "x.npz", images=npy_claiming(shape, IMAGES.tobytes()))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match=rf"x\.{name[2:]} cannot be read as arrays"):
            read_arrays(tmp_path / name)


@pytest.mark.parametrize("shape", [(2**31, 2**31, 4), (2**32 - 1,) * 3, (2**16,) * 4, (3, 20, 29)])
def test_idx_sizes_are_not_believed(tmp_path, shape):
    (tmp_path / "x-images-idx3-ubyte").write_bytes(idx_header(*shape) + IMAGES.tobytes())
    with pytest.raises(DataError, match="truncated or damaged"):
        read_arrays(tmp_path / "x-images-idx3-ubyte")


@pytest.mark.parametrize("kind", ["npy", "npz"])
@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((48, 64, 3), np.uint8), r"shape \(48, 64, 3\) looks like one image; give image\[None\]"),
        (np.zeros((48, 64), np.uint8), "looks like one image"),
        (np.zeros((48, 64, 1), np.float32), "looks like one image"),
        (np.zeros((5, 3, 48, 64), np.uint8), "channels come last"),
        (np.zeros((5, 48, 64), np.uint16), "expected uint8 images or floats in .0, 1., got uint16"),
        (np.zeros((5, 48, 64), bool), "got bool"),
        (np.zeros((0, 48, 64), np.uint8), r"holds no images: its array is \(0, 48, 64\)"),
        (np.zeros((5, 0, 64), np.uint8), "holds no images"),
        (np.zeros((), np.uint8), "holds no images"),
    ],
)
def test_what_is_no_array_of_images_is_refused_when_the_file_is_opened(tmp_path, kind, array, reason):
    path = tmp_path / f"x.{kind}"
    np.save(path, array) if kind == "npy" else np.savez(path, images=array)
    with pytest.raises(DataError, match=rf"x\.{kind}.*{reason}"):
        open_source(path, "test")

"""MNIST: the embedded part, files on disk, and downloads from servers on this very machine."""

import gzip
import hashlib
import socket
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

import numpy as np
import pytest

from alocc.data import mnist
from alocc.data.mnist import load_mnist, read_idx
from alocc.errors import DataError

T10K_SHA256 = {
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
IMAGES = np.arange(5 * 28 * 28).reshape(5, 28, 28).astype(np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


TRAINING_FILES = {"train-images-idx3-ubyte": idx(IMAGES), "train-labels-idx1-ubyte": idx(LABELS)}


class Handler(SimpleHTTPRequestHandler):
    """Files of a folder; below ``cut/``, half of what the header promises."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.path.startswith("/cut/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "2000")
        self.end_headers()
        return self.wfile.write(bytes(1000))


@pytest.fixture
def small_training_set(monkeypatch, tmp_path):
    """A training set of five images in MNIST's place, and nothing on disk."""
    for name, content in TRAINING_FILES.items():
        monkeypatch.setitem(mnist.CONTENT_SHA256, name, hashlib.sha256(content).hexdigest())
    monkeypatch.delenv("ALOCC_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    cache = tmp_path / "cache"
    monkeypatch.setattr(mnist, "cache_folder", lambda: cache)
    return cache


@pytest.fixture
def server(tmp_path):
    """Serve a folder with one good and one damaged mirror; gives its address."""
    for mirror in ("good", "damaged"):
        (tmp_path / "www" / mirror).mkdir(parents=True)
        for name, content in TRAINING_FILES.items():
            served = content if mirror == "good" else content[:-1] + b"\xff"
            (tmp_path / "www" / mirror / f"{name}.gz").write_bytes(gzip.compress(served))
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def closed_port():
    """An address on this machine where nobody answers."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unused.getsockname()[1]}/"


def put(folder, *, compressed):
    folder.mkdir(parents=True)
    for name, content in TRAINING_FILES.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


def test_idx_is_sizes_and_then_bytes():
    content = b"\x00\x00\x08\x02" + b"\x00\x00\x00\x02" + b"\x00\x00\x00\x03" + bytes([1, 2, 3, 250, 251, 252])
    parsed = read_idx(content)
    assert parsed.dtype == np.uint8
    assert parsed.tolist() == [[1, 2, 3], [250, 251, 252]]
    parsed += 1  # a copy, not a view of the bytes


@pytest.mark.parametrize(
    "change",
    [lambda c: c[:-1], lambda c: c + b"\0", lambda c: c[:9], lambda c: c[:4]],
    ids=["a byte too few", "a byte too many", "half of the sizes", "no sizes"],
)
def test_idx_of_the_wrong_length_is_refused(change):
    with pytest.raises(DataError, match=r"truncated"):
        read_idx(change(idx(np.zeros((2, 3), np.uint8))))


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\0\0\x0d\x01\0\0\0\0", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_not_idx(content):
    with pytest.raises(DataError, match=r"not an IDX file"):
        read_idx(content)


def test_test_set_is_the_published_one():
    for name, published in T10K_SHA256.items():
        packed = (resources.files("alocc.data") / "embedded" / "mnist" / f"{name}.gz").read_bytes()
        assert hashlib.sha256(gzip.decompress(packed)).hexdigest() == published
    images, names = load_mnist("test")
    assert images.shape == (10_000, 28, 28)
    assert images.dtype == np.uint8
    counts = dict(zip(*np.unique(names, return_counts=True), strict=True))
    assert [int(counts[str(digit)]) for digit in range(10)] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_digit_1_needs_neither_disk_nor_network(small_training_set, monkeypatch, closed_port):
    monkeypatch.setattr(mnist, "MIRRORS", (closed_port,))
    images, names = load_mnist("train", ["1"])
    assert images.shape == (6_742, 28, 28)
    assert set(names) == {"1"}
    assert images.reshape(len(images), -1).max(1).min() > 200  # every one shows a stroke


def test_choice_of_digits_keeps_the_order():
    everything, names = load_mnist("test")
    some, some_names = load_mnist("test", ["3", "8"])
    keep = (names == "3") | (names == "8")
    np.testing.assert_array_equal(some, everything[keep])
    np.testing.assert_array_equal(some_names, names[keep])


def test_what_is_no_digit_is_refused():
    with pytest.raises(DataError, match=r"11"):
        load_mnist("test", ["1", "11"])


def test_embedded_digit_1_is_that_of_the_full_set(full_mnist):
    images, names = load_mnist("train")
    assert images.shape == (60_000, 28, 28)
    np.testing.assert_array_equal(images[names == "1"], load_mnist("train", ["1"])[0])


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("place", ["cache", "ALOCC_DATA"])
def test_files_on_disk_are_used_without_a_network(
    small_training_set, monkeypatch, tmp_path, closed_port, compressed, place
):
    monkeypatch.setattr(mnist, "MIRRORS", (closed_port,))
    if place == "cache":
        put(small_training_set, compressed=compressed)
    else:
        put(tmp_path / "data" / "mnist", compressed=compressed)
        monkeypatch.setenv("ALOCC_DATA", str(tmp_path / "data"))
    images, names = load_mnist("train", ["1", "4"])
    np.testing.assert_array_equal(images, IMAGES[1:4])
    assert names.tolist() == ["1", "4", "1"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(idx(IMAGES + 1)), "SHA-256 differs"),
        (gzip.compress(idx(IMAGES))[:-20], "cannot be read"),
        (gzip.compress(idx(IMAGES))[:15] + b"\xff" * 40, "cannot be read"),
        (b"no gzip", "cannot be read"),
    ],
    ids=["other images", "truncated", "garbled", "text"],
)
def test_damaged_file_on_disk_is_named_with_the_remedy(small_training_set, content, complaint):
    put(small_training_set, compressed=True)
    (small_training_set / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"train-images-idx3-ubyte.*{complaint}.*delete it"):
        load_mnist("train")


def test_download_falls_back_from_missing_cut_off_and_damaged_mirrors(small_training_set, monkeypatch, server):
    mirrors = tuple(f"{server}{mirror}/" for mirror in ("missing", "cut", "damaged", "good"))
    monkeypatch.setattr(mnist, "MIRRORS", mirrors)
    images, names = load_mnist("train")
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(names, LABELS.astype(str))
    kept = sorted(path.name for path in small_training_set.iterdir())
    assert kept == [f"{name}.gz" for name in sorted(TRAINING_FILES)]


def test_second_time_needs_no_download(small_training_set, monkeypatch, server, closed_port):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}good/",))
    first, _ = load_mnist("train")
    monkeypatch.setattr(mnist, "MIRRORS", (closed_port,))
    np.testing.assert_array_equal(load_mnist("train")[0], first)


def test_download_that_is_cut_off_leaves_no_bar_running(small_training_set, monkeypatch, server):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}cut/",))
    before = set(threading.enumerate())
    with pytest.raises(DataError, match=r"cannot be downloaded"):
        load_mnist("train")
    bars = [thread for thread in set(threading.enumerate()) - before if type(thread).__module__.startswith("rich")]
    for thread in bars:
        thread.join(timeout=5)  # a busy machine may be slow to end it
    assert not any(thread.is_alive() for thread in bars)


@pytest.mark.parametrize("mirror", ["damaged/", None], ids=["only damaged files", "offline"])
def test_failed_download_says_what_to_put_where(small_training_set, monkeypatch, server, closed_port, mirror):
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server}{mirror}" if mirror else closed_port,))
    with pytest.raises(DataError) as raised:
        load_mnist("train", ["0"])
    for part in ("train-images-idx3-ubyte.gz", str(small_training_set), "ALOCC_DATA", "digit 1"):
        assert part in str(raised.value)
    assert not small_training_set.exists() or list(small_training_set.iterdir()) == []


def test_cache_folder_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert mnist.cache_folder().parts[-2:] == ("alocc", "mnist")

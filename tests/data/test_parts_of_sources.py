"""A part of a source: what comes behind so many images, and what another process is sent."""

import functools
import http.server
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from alocc.data.images import ImageFormat
from alocc.data.sources import open_source
from alocc.errors import DataError

GREY = ImageFormat(8, 8, 1)
N = 10
PIXELS = np.random.default_rng(0).integers(0, 256, (N, 8, 8), dtype=np.uint8)
CODE = """
import os, pickle, sys
os.chdir("/")
source = pickle.load(sys.stdin.buffer)
from alocc.data.resizing import ImageFormat
images = source.load(ImageFormat(8, 8, 1))
pickle.dump((images.images.numpy(), list(images.names), images.classes), sys.stdout.buffer)
"""


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The same images in two classes, in a folder, archives and arrays."""
    root = tmp_path_factory.mktemp("parts")
    for i, image in enumerate(PIXELS):
        path = root / "folder" / "ab"[i // 5] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    for name, mode in (("x.tar", "w"), ("x.tgz", "w:gz")):
        with tarfile.open(root / name, mode) as archive:
            archive.add(root / "folder", "folder")
    with zipfile.ZipFile(root / "x.zip", "w") as archive:
        for path in sorted((root / "folder").rglob("*.png")):
            archive.write(path, path.relative_to(root))
    np.save(root / "x.npy", PIXELS)
    np.savez(root / "x.npz", images=PIXELS, labels=np.repeat(["a", "b"], 5))
    return root


@pytest.fixture
def address(root):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=root)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def check(source):
    """A part of it, and a part of that, are those images; in another process, in another folder, too."""
    whole = source.load(GREY)
    assert len(whole) == N
    part = source[2:][1:5]
    assert len(part) == 4 and part.class_names == source.class_names
    done = subprocess.run([sys.executable, "-c", CODE], input=pickle.dumps(part), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    for images, names, classes in (
        (part.load(GREY).images.numpy(), list(part.load(GREY).names), part.load(GREY).classes),
        pickle.loads(done.stdout),
    ):
        np.testing.assert_array_equal(images, whole.images[3:7].numpy())
        assert names == list(whole.names[3:7]) and classes.tolist() == whole.classes[3:7].tolist()
    assert list(source[N:].batches(GREY)) == [] and len(source[N:]) == 0


@pytest.mark.parametrize("name", ["folder", "x.zip", "x.tar", "x.tgz", "x.npy", "x.npz"])
def test_a_part_is_the_same_images_in_another_process_too(root, name):
    check(open_source(root / name, "test"))


def test_a_part_of_a_folder_at_an_address_too(root, address, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")
    check(open_source(f"{address}/folder/", "test"))


def test_what_cannot_be_used_goes_with_the_first_images(root, tmp_path):
    (tmp_path / "table.csv").write_text("path\nmissing.png\n" + "".join(f"{root}/folder/a/{i}.png\n" for i in range(5)))
    source = open_source(tmp_path / "table.csv", "test")
    assert source.after(0) is source and [len(part.skipped) for part in source.batches(GREY)] == [1, 0]
    left = source.after(3)  # the one that is missing, and two images
    assert left.load(GREY).skipped == () and list(left.load(GREY).names) == list(source.load(GREY).names[2:])


def test_a_video_goes_on_behind_a_frame_and_tells_of_its_damage_once(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for i in range(60):
            pixels = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    whole = open_source(path, "test").load(GREY)
    left = open_source(path, "test").after(25).load(GREY)
    assert torch.equal(left.images, whole.images[25:]) and list(left.names) == list(whole.names[25:])
    np.testing.assert_array_equal(left.original(3), whole.original(28))
    os.truncate(path, path.stat().st_size // 2)
    [*_, last] = open_source(path, "test").batches(GREY)
    n = sum(len(part) for part in open_source(path, "test").batches(GREY))
    assert len(last.skipped) == 1 and 0 < n < 60
    assert [len(part.skipped) for part in open_source(path, "test").after(n).batches(GREY)] == [1]
    assert list(open_source(path, "test").after(n + 1).batches(GREY)) == []


def test_the_identity_tells_files_of_the_same_names_apart(root, tmp_path):
    def identity(name):
        return open_source(tmp_path / name, "test").identity()

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.png").write_bytes(png(PIXELS[0]))
    before = identity("folder")
    assert identity("folder") == before
    os.utime(tmp_path / "folder" / "1.png", (1, 1))
    assert identity("folder") != before
    before = identity("folder")
    (tmp_path / "folder" / "2.png").write_bytes(b"")
    assert identity("folder") != before
    for name, change in (
        ("x.npy", lambda path: np.save(path, PIXELS[::-1])),
        ("x.zip", lambda path: os.utime(path, (1, 1))),
    ):
        (tmp_path / name).write_bytes((root / name).read_bytes())
        os.utime(tmp_path / name, (2, 2))
        before = identity(name)
        change(tmp_path / name)
        assert identity(name) != before
    with pytest.raises(DataError):
        open_source(tmp_path / "missing", "test")

"""Every kind of source that holds encoded images, on real files."""

import csv
import functools
import http.server
import io
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from alocc.config import ImagesConfig
from alocc.data import entries, sources
from alocc.data.images import ImageFormat
from alocc.data.sources import open_source
from alocc.errors import ConfigError, DataError

GREY = ImageFormat(20, 20, 1)


def flat(value, side=20):
    return np.full((side, side), value, np.uint8)


def encoded(value, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(flat(value)).save(buffer, kind)
    return buffer.getvalue()


def values(images):
    return images.images[:, 0, 0, 0].tolist()


@pytest.fixture
def parts(tmp_path, save_image):
    for i, name in enumerate(["good/1.png", "good/2.png", "bent/1.png"]):
        save_image(flat(10 * i), name)
    return tmp_path


def test_a_pattern_has_the_classes_below_its_fixed_part(parts):
    images = open_source(f"{parts}/**/*.png", "test").load(GREY)
    assert (values(images), images.classes.tolist()) == ([20, 0, 10], ["bent", "good", "good"])
    assert open_source(f"{parts}/good/*.png", "test").load(GREY).classes.tolist() == ["", ""]
    with pytest.raises(DataError, match="holds no image files"):
        open_source(f"{parts}/*.tiff", "test")


def pack(archive, members):
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                file.writestr(name, content)
        return
    with tarfile.open(archive, f"w:{archive.suffix[1:]}" if archive.suffix != ".tar" else "w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tar.gz"])
@pytest.mark.parametrize("around", ["", "parts-v2/"])
def test_an_archive_is_read_in_place_and_a_folder_around_everything_does_not_count(tmp_path, name, around):
    members = {"good/2.png": encoded(10), "good/1.png": encoded(5), "bent/1.png": encoded(20), "README.md": b"no image"}
    pack(tmp_path / name, {around + member: content for member, content in members.items()})
    source = open_source(tmp_path / name, "test")
    assert len(source) == 3
    images = source.load(GREY)
    assert (values(images), images.classes.tolist()) == ([20, 5, 10], ["bent", "good", "good"])
    assert images.names[0] == f"{tmp_path / name}/{around}bent/1.png"
    assert len(open_source(tmp_path / name, "test", ["good"]).load(GREY)) == 2


@pytest.mark.parametrize("name", ["bad.zip", "bad.tar.gz"])
def test_a_broken_archive_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match="cannot be read as an archive"):
        open_source(tmp_path / name, "test")


def test_a_damaged_member_is_named(tmp_path):
    pack(tmp_path / "all.zip", {"1.png": encoded(1), "2.png": encoded(2)[:40]})
    images = open_source(tmp_path / "all.zip", "test").load(GREY)
    assert values(images) == [1]
    assert images.skipped[0].name == f"{tmp_path}/all.zip/2.png"


@pytest.mark.parametrize("name", ["all.tar", "all.tar.gz"])
def test_links_and_giants_in_an_archive_are_named(tmp_path, name, monkeypatch):
    monkeypatch.setattr(entries, "MAX_BYTES", 1_000)
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as file:
        for member, kind, content in (
            ("1.png", tarfile.REGTYPE, encoded(1)),
            ("2.png", tarfile.SYMTYPE, b""),
            ("3.png", tarfile.REGTYPE, bytes(1_001)),
        ):
            info = tarfile.TarInfo(member)
            info.type, info.size, info.linkname = kind, len(content), "1.png"
            file.addfile(info, io.BytesIO(content))
    images = open_source(tmp_path / name, "test").load(GREY)
    assert values(images) == [1]
    assert ["link inside" in images.skipped[0].reason, "1,001 bytes" in images.skipped[1].reason] == [True, True]


def test_what_a_pattern_matches_and_nobody_can_read_is_named(parts):
    (parts / "good" / "3.png").symlink_to(parts / "nowhere")
    images = open_source(f"{parts}/good/*.png", "test").load(GREY)
    assert len(images) == 2 and images.skipped[0].name == f"{parts}/good/3.png"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_a_table_names_images_with_label_split_and_mask(parts, suffix):
    rows = [
        {"path": "good/1.png", "label": "good", "split": "train", "mask": ""},
        {"path": "good/2.png", "label": "good", "split": "test", "mask": ""},
        {"path": "bent/1.png", "label": "bent", "split": "test", "mask": "good/1.png"},
        {"path": "lost.png", "label": "good", "split": "test", "mask": ""},
    ]
    table = parts / f"list{suffix}"
    if suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    else:
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    train, test = (open_source(table, split).load(GREY) for split in ("train", "test"))
    assert (values(train), values(test)) == ([0], [10, 20])
    assert test.classes.tolist() == ["good", "bent"]
    assert test.masks == [None, parts / "good/1.png"]
    assert "lost.png" in test.skipped[0].reason and "line 5" in test.skipped[0].reason


def test_a_table_without_paths_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text("file,label\na.png,good\n")
    with pytest.raises(DataError, match="no column path; its columns: file, label"):
        open_source(tmp_path / "list.csv", "test")


def test_the_layout_of_industrial_sets(tmp_path, save_image):
    for name in ("train/good/0.png", "train/good/1.png", "test/good/0.png", "test/cut/0.png", "test/cut/1.png"):
        save_image(flat(50), name)
    save_image(flat(255), "ground_truth/cut/0_mask.png")
    save_image(flat(255), "ground_truth/cut/1.png")
    train, test = (open_source(tmp_path, split).load(GREY) for split in ("train", "test"))
    assert train.classes.tolist() == ["good", "good"]
    assert test.classes.tolist() == ["cut", "cut", "good"]
    assert test.masks == [tmp_path / "ground_truth/cut/0_mask.png", tmp_path / "ground_truth/cut/1.png", None]


def test_pages_of_a_tiff_are_images(tmp_path):
    pages = [Image.fromarray(flat(value)) for value in (1, 2, 3)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    images = open_source(tmp_path, "test").load(GREY)
    assert values(images) == [1, 2, 3]
    assert images.names[1] == f"{tmp_path}/scan.tif#page=1"


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_in_files(tmp_path, compressed):
    array = np.stack([flat(i) for i in range(5)])
    np.save(tmp_path / "x.npy", array)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "x.npz", images=array, labels=list("aabba"))
    assert values(open_source(tmp_path / "x.npy", "test").load(GREY)) == [0, 1, 2, 3, 4]
    source = open_source(tmp_path / "x.npz", "test", ["b"])
    assert values(source.load(GREY)) == [2, 3]
    assert source.load(GREY).names == [f"{tmp_path}/x.npz#2", f"{tmp_path}/x.npz#3"]


def test_idx_files_find_their_labels(tmp_path):
    header = b"\x00\x00\x08\x03" + np.array([2, 20, 20], ">u4").tobytes()
    (tmp_path / "my-images-idx3-ubyte").write_bytes(header + bytes(800))
    (tmp_path / "my-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01" + np.array([2], ">u4").tobytes() + b"\x07\x03")
    assert open_source(tmp_path / "my-images-idx3-ubyte", "test").load(GREY).classes.tolist() == ["7", "3"]


def test_pickles_in_array_files_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array([object()]), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as arrays"):
        open_source(tmp_path / "x.npy", "test")


def test_arrays_that_are_no_images_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(7))
    with pytest.raises(DataError, match="images are"):
        open_source(tmp_path / "x.npy", "test")
    np.savez(tmp_path / "x.npz", left=np.zeros((2, 20, 20)), right=np.zeros((2, 20, 20)))
    with pytest.raises(DataError, match="which of its arrays are the images"):
        open_source(tmp_path / "x.npz", "test")


def write_video(path, n=12):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_frames_of_a_video_are_named_by_their_time(tmp_path):
    write_video(tmp_path / "belt.mp4")
    source = open_source(tmp_path / "belt.mp4", "test", stride=3)
    assert source.infer_format(ImagesConfig()) == ImageFormat(32, 32, 1)
    images = source.load(GREY)
    assert len(images) == 4
    assert images.names[1] == f"{tmp_path}/belt.mp4#t=0:00:00.300"
    np.testing.assert_allclose(values(images), [0, 60, 120, 180], atol=8)


def test_a_broken_video_is_refused_or_ends_where_it_breaks(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "no.mp4").write_bytes(b"no video at all")
    with pytest.raises(DataError, match="cannot be read as a video"):
        open_source(tmp_path / "no.mp4", "test").infer_format(ImagesConfig())


def test_links_are_followed_but_not_in_circles(parts):
    (parts / "good" / "again").symlink_to(parts, target_is_directory=True)
    elsewhere = parts.parent / f"{parts.name}-elsewhere"
    elsewhere.mkdir()
    Image.fromarray(flat(99)).save(elsewhere / "linked.png")
    (parts / "linked").symlink_to(elsewhere, target_is_directory=True)
    images = open_source(parts, "test").load(GREY)
    assert sorted(values(images)) == [0, 10, 20, 99]


def test_many_images_lie_in_a_file_and_are_the_same(parts, monkeypatch):
    usual = open_source(parts, "test").load(GREY)
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 500)
    monkeypatch.setattr(sources, "BATCH", 1)
    in_file = open_source(parts, "test").load(GREY)
    assert usual.images.equal(in_file.images) and list(in_file.names) == list(usual.names)


def test_the_order_is_kept_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BATCH", 7)
    pack(tmp_path / "all.zip", {f"{i:03}.png": encoded(i) for i in range(40)})
    source = open_source(tmp_path / "all.zip", "test")
    assert [len(part) for part in source.batches(GREY)] == [7] * 5 + [5]
    assert values(source.load(GREY)) == list(range(40))


@pytest.fixture
def server(parts):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(parts))
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}"
        served.shutdown()


def test_images_behind_an_address(server, parts):
    pack(parts / "all.zip", {"a/1.png": encoded(7)})
    images = open_source(f"{server}/", "test").load(GREY)
    assert (values(images), images.classes.tolist()) == ([20, 0, 10], ["bent", "good", "good"])
    assert images.names[0] == f"{server}/bent/1.png"
    assert values(open_source(f"{server}/good/2.png", "test").load(GREY)) == [10]
    assert values(open_source(f"{server}/all.zip", "test").load(GREY)) == [7]


def test_an_address_that_leads_nowhere_is_one_line(server):
    with pytest.raises(DataError, match=r"holds no image files|cannot be read"):
        open_source(f"{server}/nothing/", "test")
    with pytest.raises(DataError, match=r"nothing\.png"):
        open_source(f"{server}/nothing.png", "test").load(GREY)
    with pytest.raises((ConfigError, DataError)):
        open_source("nosuch://place/1.png", "test")

"""Every kind of source that holds encoded images, on real files."""

import csv
import datetime
import functools
import http.server
import io
import itertools
import sys
import tarfile
import threading
import unicodedata
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from alocc.config import ImagesConfig
from alocc.data import entries, sources
from alocc.data.entries import in_order, visible
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
    with pytest.raises(DataError, match="matches no image files"):
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


ORDERED = [
    "9.png",
    "10.png",
    "a1/1.png",
    "a1/2.png",
    "a1/10.png",
    "a1/0/3.png",
    "a1/b/0.png",
    "a1/b/c3.png",
    "a2/0.png",
    "a10/0.png",
]


def test_files_are_in_one_order_wherever_they_are(tmp_path):
    contents = {name: encoded(i) for i, name in enumerate(ORDERED)}
    for name, content in sorted(contents.items()):
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    for archive in ("all.zip", "all.tar", "all.tar.bz2"):
        pack(tmp_path / archive, dict(sorted(contents.items())))
    for place in ("folder", "folder/**/*.png", "all.zip", "all.tar", "all.tar.bz2"):
        assert values(open_source(tmp_path / place, "train").load(GREY)) == list(range(len(ORDERED))), place


def test_numbers_of_one_width_sort_as_text_does():
    stems = ["img", "img_", "IMG", "a.b", "a-b", "é", ""]
    names = [
        f"{stem}{i:03}{end}.png" for stem, i, end in itertools.product(stems, (0, 1, 9, 10, 99, 100), ("", "x", "-07"))
    ]
    assert sorted(names, key=lambda name: in_order([name])) == sorted(names)
    assert sorted(["x10", "x9", "x09", "x", "x1y2", "x1y10", "x01y3"], key=lambda name: in_order([name])) == [
        "x", "x1y2", "x01y3", "x1y10", "x09", "x9", "x10",
    ]  # fmt: skip


def in_folder(root, members):
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def in_archive(suffix):
    def make(root, members):
        pack(root / f"all{suffix}", members)
        return root / f"all{suffix}"

    return make


PLACES = {"folder": in_folder, **{suffix: in_archive(suffix) for suffix in (".zip", ".tar", ".tar.gz")}}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "TEST"), ("training", "testing"), ("Training", "Test")]
)
def test_parts_are_understood_by_any_spelling_in_folders_and_archives(tmp_path, place, train, test):
    data = PLACES[place](
        tmp_path,
        {
            f"{train}/Good/1.png": encoded(1),
            f"{test}/Good/2.png": encoded(2),
            f"{test}/Cut/deep/3.png": encoded(3),
            "ground_truth/Cut/deep/3.png": encoded(255),
            "val/Good/4.png": encoded(4),
            "5.png": encoded(5),
        },
    )
    training, testing = (open_source(data, split).load(GREY) for split in ("train", "test"))
    assert (values(training), training.classes.tolist()) == ([1], ["Good"])
    assert (values(testing), testing.classes.tolist()) == ([3, 2], ["Cut", "Good"])
    for images in (training, testing):
        assert [item.name for item in images.skipped] == [f"{data}/5.png", f"{data}/val/Good/4.png"]
        assert all("lies beside the folders of training and test images" in item.reason for item in images.skipped)


@pytest.mark.parametrize("place", PLACES)
def test_training_images_alone_keep_their_classes(tmp_path, place):
    data = PLACES[place](tmp_path, {"train/good/x/1.png": encoded(1), "train/bad/x/2.png": encoded(2)})
    for split in ("train", "test"):
        assert open_source(data, split).load(GREY).classes.tolist() == ["bad", "good"]


@pytest.mark.parametrize("place", PLACES)
def test_test_images_alone_do_not_train(tmp_path, place):
    data = PLACES[place](tmp_path, {"test/good/x/1.png": encoded(1), "ground_truth/good/x/1.png": encoded(2)})
    assert values(open_source(data, "test").load(GREY)) == [1]
    with pytest.raises(DataError, match="has a folder of test images and none of training images"):
        open_source(data, "train")


def test_classes_that_are_called_like_a_part_stay_classes(tmp_path):
    in_folder(tmp_path, {f"{name}/1.png": encoded(1) for name in ("aeroplane", "bus", "train", "ground_truth")})
    for split in ("train", "test"):
        assert open_source(tmp_path, split).class_names == ("aeroplane", "bus", "ground_truth", "train")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.xz"])
@pytest.mark.parametrize("before", ["./", "/", "../", "top/", "./top/", "C:/", "top\\", ".\\top\\", "C:\\"])
def test_what_programs_put_before_names_in_archives_is_no_class(tmp_path, suffix, before):
    slash = "\\" if "\\" in before else "/"
    names = [f"good{slash}1.png", f"good{slash}.hidden.png", f".git{slash}2.png", f"bad{slash}3.png"]
    pack(tmp_path / f"all{suffix}", {before + name: encoded(i) for i, name in enumerate(names)})
    images = open_source(tmp_path / f"all{suffix}", "train").load(GREY)
    assert (values(images), images.classes.tolist()) == ([3, 0], ["bad", "good"])


def test_a_tar_file_is_unpacked_as_its_content_says(tmp_path):
    pack(tmp_path / "all.tar.gz", {"1.png": encoded(1)})
    (tmp_path / "all.tar.gz").rename(tmp_path / "all.tar")
    assert values(open_source(tmp_path / "all.tar", "train").load(GREY)) == [1]


ZEROS = bytes(10_000_000)


@pytest.mark.parametrize("name", ["all.zip", "all.tar.gz", "all.tar.bz2", "all.tar.xz"])
@pytest.mark.parametrize("n", [9, 11])
def test_an_archive_may_unpack_to_a_hundred_megabytes_or_a_hundred_times_its_size(tmp_path, name, n):
    pack(tmp_path / name, {f"{i}.png": ZEROS for i in range(n)} | {"good.png": encoded(7)})
    assert (tmp_path / name).stat().st_size < 1_000_000
    if n == 9:
        images = open_source(tmp_path / name, "train").load(GREY)
        assert (values(images), len(images.skipped)) == ([7], 9)
        return
    with pytest.raises(DataError, match=r"all\.\S+ unpacks to more than the 100,000,000 bytes .* unpack it and give"):
        open_source(tmp_path / name, "train")


def test_what_is_no_image_in_a_compressed_tar_counts_too(tmp_path):
    pack(tmp_path / "all.tar.gz", {"good.png": encoded(7)} | {f"{i}.bin": ZEROS for i in range(11)})
    with pytest.raises(DataError, match="unpacks to more than"):
        open_source(tmp_path / "all.tar.gz", "train")


def test_a_large_archive_of_images_that_hardly_shrink_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(entries, "FREE_BYTES", 1_000)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    for name in ("all.zip", "all.tar", "all.tar.gz"):
        pack(tmp_path / name, {f"{i}.png": buffer.getvalue() for i in range(20)})
        assert len(open_source(tmp_path / name, "train").load(GREY)) == 20
    monkeypatch.setattr(entries, "MAX_RATIO", 10**12)
    assert len(open_source(tmp_path / "all.tar.gz", "train").load(GREY)) == 20  # what is allowed is not allocated
    monkeypatch.setattr(entries, "MAX_RATIO", 1)
    with pytest.raises(DataError, match="unpacks to more than"):
        open_source(tmp_path / "all.tar.gz", "train")  # twenty times the same: it shrank after all


def test_a_member_of_a_zip_file_that_says_it_is_too_large_is_not_unpacked(tmp_path):
    pack(tmp_path / "all.zip", {"1.png": encoded(1), "2.png": encoded(2)})
    content = bytearray((tmp_path / "all.zip").read_bytes())
    listed = content.rindex(b"PK\x01\x02")  # of the second member; its unpacked size is at 24
    content[listed + 24 : listed + 28] = (500_000_001).to_bytes(4, "little")
    (tmp_path / "all.zip").write_bytes(content)
    images = open_source(tmp_path / "all.zip", "train").load(GREY)
    assert values(images) == [1]
    assert [item.name for item in images.skipped] == [f"{tmp_path}/all.zip/2.png"]
    assert "500,000,001 bytes; 500,000,000 are allowed" in images.skipped[0].reason


def test_a_hole_in_a_tar_file_is_not_unpacked(tmp_path):
    """A sparse member of a kilobyte in the old GNU form, which would be a gigabyte."""
    header = bytearray(tarfile.TarInfo("hole.png").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"00000001000\0"  # 512 bytes that are there
    header[386:410] = b"00000000000\0" + b"00000001000\0"  # they begin at 0
    header[483:495] = b"10000000000\0"  # of a gigabyte
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    for name, opener in (("all.tar", open), ("all.tar.gz", entries.gzip.open)):
        with opener(tmp_path / name, "wb") as file:
            file.write(bytes(header) + bytes(512) + bytes(1024))
        source = open_source(tmp_path / name, "train")
        with pytest.raises(DataError, match="a link or a hole inside an archive"):
            source.load(GREY)


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
    assert ["a link or a hole inside" in images.skipped[0].reason, "1,001 bytes" in images.skipped[1].reason] == [
        True,
        True,
    ]


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
    with pytest.raises(DataError, match='has a column "file" and none called path; rename it'):
        open_source(tmp_path / "list.csv", "test")
    (tmp_path / "list.csv").write_text("where,label\na.png,good\n")
    with pytest.raises(DataError, match="no column path; its columns: where, label"):
        open_source(tmp_path / "list.csv", "test")


def write_table(path, columns):
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([columns, *zip(*columns.values(), strict=True)])
    return path


DAY = datetime.date(2026, 1, 31)
LABELS = {
    "whole": ([0, 1, 0], ["0", "1", "0"]),
    "negative": ([-1, 0, -1], ["-1", "0", "-1"]),
    "float": ([0.0, 1.5, 0.0], ["0.0", "1.5", "0.0"]),
    "bool": ([False, True, False], ["False", "True", "False"]),
    "date": ([DAY, DAY, DAY], ["2026-01-31"] * 3),
    "time": ([datetime.datetime(2026, 1, 31, 12)] * 3, ["2026-01-31 12:00:00"] * 3),
    "text": ([" good ", "bad", "0"], ["good", "bad", "0"]),
    "empty": (["", "good", "  "], ["", "good", ""]),
    "none": ([None, "good", None], ["", "good", ""]),
    "decomposed": ([unicodedata.normalize("NFD", "Größe"), "Größe", "x"], ["Größe", "Größe", "x"]),
}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("label", LABELS)
def test_every_type_of_label_is_a_class_and_the_same_in_every_table(parts, suffix, label):
    given, expected = LABELS[label]
    table = write_table(parts / f"t{suffix}", {"path": ["good/1.png", "good/2.png", "bent/1.png"], "label": given})
    source = open_source(table, "train")
    assert source.load(GREY).classes.tolist() == expected
    assert source.class_names == tuple(sorted(set(expected) - {""})) and source.n_unlabelled == expected.count("")


@pytest.mark.parametrize(
    ("label", "expected"),
    [([0.0, float("nan"), 1.0], ["0.0", "", "1.0"]), ([b"good", b"bad", None], ["good", "bad", ""]),
     ([0, None, 1], ["0", "", "1"])],
    ids=["not a number", "bytes", "a gap"],
)  # fmt: skip
def test_labels_that_only_parquet_has(parts, label, expected):
    table = write_table(parts / "t.parquet", {"path": ["good/1.png", "good/2.png", "bent/1.png"], "label": label})
    assert open_source(table, "train").load(GREY).classes.tolist() == expected


def test_the_folders_around_a_parquet_file_are_no_columns(parts):
    folder = parts / "label=bent" / "split=test"
    folder.mkdir(parents=True)
    table = write_table(folder / "t.parquet", {"path": ["../../good/1.png"], "label": ["good"], "split": ["train"]})
    assert open_source(table, "train").load(GREY).classes.tolist() == ["good"]


@pytest.mark.parametrize(
    "header",
    ["path,label,split", "path, label, split", "Path,LABEL,Split", " path\t,label ,split", "\ufeffpath,label,split",
     "\ufeff\ufeffpath,label,split", '"path","label","split"', "number,split,label,path"],
)  # fmt: skip
def test_columns_are_found_however_their_names_are_written(parts, header):
    rows = [("good/1.png", "good", "train"), ("bent/1.png", "bad", "train"), ("good/2.png", "bad", "test")]
    by_position = ["7, {2}, {1}, {0}" if header.startswith("number") else "{0}, {1}, {2}"] * 3
    lines = [line.format(*row) for line, row in zip(by_position, rows, strict=True)]
    (parts / "t.csv").write_text("\n".join([header, *lines]), encoding="utf-8")
    images = open_source(parts / "t.csv", "train").load(GREY)
    assert (values(images), images.classes.tolist()) == ([0, 20], ["good", "bad"])


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize(
    ("column", "meant"),
    [("labels", "label"), ("lable", "label"), ("Class", "label"), ("target", "label"), ("splits", "split"),
     ("subset", "split"), ("masks", "mask"), ("ground_truth", "mask")],
)  # fmt: skip
def test_a_column_that_may_be_meant_is_never_passed_over(parts, suffix, column, meant):
    table = write_table(parts / f"t{suffix}", {"path": ["good/1.png"], column: ["x"]})
    with pytest.raises(
        DataError, match=rf't{suffix} has a column "{column}" and none called {meant}; rename it, or leave'
    ):
        open_source(table, "train")
    table = write_table(parts / f"t{suffix}", {"path": ["good/1.png"], column: ["x"], meant: [""]})
    assert len(open_source(table, "train")) == 1


def test_a_column_that_is_there_twice_is_refused(parts):
    (parts / "t.csv").write_text("path,label,Label\ngood/1.png,a,b\n")
    with pytest.raises(DataError, match="has 2 columns called label"):
        open_source(parts / "t.csv", "train")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_splits_are_understood_by_any_spelling_and_others_are_named(parts, suffix):
    names = ["good/1.png", "good/2.png", "bent/1.png", "good/1.png", "good/2.png", "bent/1.png", "good/1.png"]
    splits = ["Train", " training", "TEST", "testing ", "val", "validation", ""]
    table = write_table(parts / f"t{suffix}", {"path": names, "split": splits})
    train, test = (open_source(table, split).load(GREY) for split in ("train", "test"))
    assert (values(train), values(test)) == ([0, 10, 0], [20, 0, 0])
    for images in (train, test):
        assert [item.reason.partition(" line ")[2] for item in images.skipped] == [
            "6: 'good/2.png' is of the split \"val\", neither train nor test",
            "7: 'bent/1.png' is of the split \"validation\", neither train nor test",
        ]


def test_a_table_without_images_of_a_split_names_those_it_has(parts):
    table = write_table(
        parts / "t.csv", {"path": ["good/1.png", "good/2.png", "x.png"], "split": ["train", "Train", "val"]}
    )
    with pytest.raises(
        DataError, match=r"names no test images that can be used; its splits: train \(1\), Train \(1\), val"
    ):
        open_source(table, "test")


def test_files_of_a_table_are_found_however_their_names_are_written(tmp_path, save_image):
    for i, form in enumerate(("NFC", "NFD")):
        save_image(flat(i), f"a/{unicodedata.normalize(form, 'Größe')}{i}.png")
    save_image(flat(2), "a/ blank.png")
    rows = [unicodedata.normalize("NFD", "a/Größe0.png"), "a\\Größe1.png", '"a/ blank.png"', " a/Größe1.png "]
    (tmp_path / "t.csv").write_text("\n".join(["path", *rows]), encoding="utf-8")
    images = open_source(tmp_path / "t.csv", "train").load(GREY)
    assert (values(images), images.skipped) == ([0, 1, 2, 1], ())


def test_lines_are_numbered_as_in_the_file_and_too_many_cells_are_named(parts):
    (parts / "t.csv").write_text('path,label\n\n"gone\n.png",x\ngood/1.png,good,half\ngood/2.png\n')
    source = open_source(parts / "t.csv", "train")
    assert source.load(GREY).classes.tolist() == [""]
    assert [item.reason.partition("t.csv ")[2] for item in source.unusable] == [
        "line 4: no file 'gone\\n.png'",
        "line 5: it has more cells than the table has columns",
    ]


def test_a_missing_library_is_no_damaged_table(parts, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (parts / "t.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"needs pyarrow; install it with: pip install pyarrow"):
        open_source(parts / "t.parquet", "train")


def test_classes_and_masks_are_found_in_either_of_unicodes_forms(tmp_path, save_image):
    apart, together = (unicodedata.normalize(form, "Größe") for form in ("NFD", "NFC"))
    save_image(flat(1), f"train/{apart}/1.png")
    save_image(flat(2), f"test/{apart}/{together}.png")
    save_image(flat(255), f"ground_truth/{apart}/{apart}_mask.png")
    for asked in (apart, together):
        images = open_source(tmp_path, "test", [asked]).load(GREY)
        assert images.classes.tolist() == [together]
        assert images.masks == [tmp_path / "ground_truth" / apart / f"{apart}_mask.png"]
    pack(tmp_path / "all.zip", {f"{apart}/1.png": encoded(1), "x/2.png": encoded(2)})
    assert values(open_source(tmp_path / "all.zip", "train", [together]).load(GREY)) == [1]
    np.savez(tmp_path / "x.npz", images=np.stack([flat(1), flat(2)]), labels=[apart, "x"])
    assert values(open_source(tmp_path / "x.npz", "train", [together]).load(GREY)) == [1]


def test_what_a_terminal_would_obey_is_spelled_out():
    assert visible("\x1b]0;owned\x07\x9b2J\r\n\x7f\u202egnp.exe") == (r"\x1b]0;owned\x07\x9b2J\r\n\x7f\u202egnp.exe")
    assert visible("Größe 日本 [a] 'b'") == "Größe 日本 [a] 'b'"


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


def pages(*values):
    buffer = io.BytesIO()
    first, *others = [Image.fromarray(flat(value)) for value in values]
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["all.zip", "all.tar", "all.tar.gz"])
def test_pages_of_a_tiff_in_an_archive_are_images(tmp_path, name):
    pack(tmp_path / name, {"good/scan.tif": pages(1, 2, 3), "good/single.tif": pages(4)})
    images = open_source(tmp_path / name, "test").load(GREY)
    assert (values(images), images.classes.tolist()) == ([1, 2, 3, 4], ["good"] * 4)
    assert images.names[1::2] == [f"{tmp_path / name}/good/scan.tif#page=1", f"{tmp_path / name}/good/single.tif"]


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
    monkeypatch.setattr(sources.reading, "BATCH", 1)
    in_file = open_source(parts, "test").load(GREY)
    assert usual.images.equal(in_file.images) and list(in_file.names) == list(usual.names)


def test_images_go_into_a_file_from_the_first_byte_too_many_on(monkeypatch):
    monkeypatch.setattr(sources, "MOST_IN_MEMORY", 3 * 400)
    buffer = sources._Buffer(GREY)
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 20, 20).clone()
    buffer.add(images[:3])
    assert isinstance(buffer.file, io.BytesIO)
    buffer.add(images[3:])
    assert not isinstance(buffer.file, io.BytesIO) and buffer.file.seek(0, 2) == 4 * 400
    assert buffer.images().equal(images)


def test_the_order_is_kept_over_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(sources.reading, "BATCH", 7)
    pack(tmp_path / "all.zip", {f"{i:03}.png": encoded(i) for i in range(40)})
    source = open_source(tmp_path / "all.zip", "test")
    assert [len(part) for part in source.batches(GREY)] == [7] * 5 + [5]
    assert values(source.load(GREY)) == list(range(40))


class Server(http.server.SimpleHTTPRequestHandler):
    """Files of a folder; whatever is below /away/ is said to be at localhost, below /moved/ elsewhere on this host."""

    def log_message(self, *_):
        pass

    def send_head(self):
        for prefix, host in (("/away/", "localhost"), ("/moved/", "127.0.0.1")):
            if self.path.startswith(prefix):
                self.send_response(302)
                target = self.path.removeprefix(prefix)
                self.send_header("Location", f"http://{host}:{self.server.server_address[1]}/{target}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
        return super().send_head()


@pytest.fixture
def server(parts):
    handler = functools.partial(Server, directory=str(parts))
    with http.server.ThreadingHTTPServer(("", 0), handler) as served:
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


def test_pages_of_a_tiff_behind_an_address_are_images(server, parts):
    in_folder(parts / "scans", {"a.tif": pages(1, 2), "b.tiff": pages(3)})
    images = open_source(f"{server}/scans/", "test").load(GREY)
    assert values(images) == [1, 2, 3]
    assert images.names == [f"{server}/scans/a.tif#page=0", f"{server}/scans/a.tif#page=1", f"{server}/scans/b.tiff"]
    assert values(open_source(f"{server}/scans/a.tif", "test").load(GREY)) == [1, 2]


@pytest.mark.parametrize(
    ("error", "listed", "read"),
    [
        (ValueError("odd"), "memory://folder/ cannot be read (ValueError: odd)", "(ValueError: odd)"),
        (DataError("ours"), "ours", "(ours)"),
    ],
    ids=["ValueError", "DataError"],
)
def test_an_error_of_a_file_system_is_no_missing_library_and_ours_stays(monkeypatch, error, listed, read):
    from fsspec.implementations.memory import MemoryFileSystem

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(MemoryFileSystem, "find", fail)
    monkeypatch.setattr(MemoryFileSystem, "open", fail)
    with pytest.raises(DataError) as raised:
        open_source("memory://folder/", "test")
    assert str(raised.value) == listed
    with pytest.raises(DataError) as raised:
        open_source("memory://1.png", "test").load(GREY)
    assert str(raised.value).endswith(f"memory://1.png cannot be read {read}")


def test_an_address_that_leads_nowhere_is_one_line(server):
    with pytest.raises(DataError, match=r"holds no image files|cannot be read"):
        open_source(f"{server}/nothing/", "test")
    with pytest.raises(DataError, match=r"nothing\.png"):
        open_source(f"{server}/nothing.png", "test").load(GREY)
    with pytest.raises((ConfigError, DataError)):
        open_source("nosuch://place/1.png", "test")


def test_images_of_a_remote_file_bear_its_address(server, parts):
    pack(parts / "all.zip", {"a/1.png": encoded(7), "a/2.png": b"no image"})
    images = open_source(f"{server}/all.zip", "test").load(GREY)
    assert images.names == [f"{server}/all.zip/a/1.png"]
    assert images.skipped[0].name == f"{server}/all.zip/a/2.png" and images.skipped[0].name in images.skipped[0].reason
    np.savez(parts / "x.npz", images=np.stack([flat(1), flat(2)]))
    assert open_source(f"{server}/x.npz", "test").load(GREY).names == [f"{server}/x.npz#0", f"{server}/x.npz#1"]
    write_video(parts / "belt.mp4", 2)
    assert open_source(f"{server}/belt.mp4", "test").load(GREY).names[0] == f"{server}/belt.mp4#t=0:00:00.000"


@pytest.mark.parametrize("name", ["bad.zip", "bad.tar", "bad.npz", "bad.npy", "bad.mp4"])
def test_errors_of_a_remote_file_bear_its_address(server, parts, name, tmp_path_factory):
    if name.endswith("mp4"):
        pytest.importorskip("av")
    (parts / name).write_bytes(b"nothing of that type")
    with pytest.raises(DataError) as raised:
        open_source(f"{server}/{name}", "test").infer_format(ImagesConfig())
    assert str(raised.value).startswith(f"{server}/{name} ") and str(raised.value).count(name) == 1


def test_remote_parts_hidden_files_and_order(server, parts):
    (parts / "set").mkdir()
    for name in ("Train/ok/10.png", "Train/ok/9.png", "Train/.git/1.png", "Test/not ok/1.png", "2.png"):
        (parts / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (parts / "set" / name).write_bytes(encoded(len(name)))
    train, test = (open_source(f"{server}/set/", split).load(GREY) for split in ("train", "test"))
    assert train.names == [f"{server}/set/Train/ok/9.png", f"{server}/set/Train/ok/10.png"]
    assert (train.classes.tolist(), test.classes.tolist()) == (["ok", "ok"], ["not ok"])
    assert [item.name for item in train.skipped] == [f"{server}/set/2.png"]


def test_a_redirect_to_another_host_is_refused_unless_that_host_is_allowed(server, parts, monkeypatch):
    monkeypatch.delenv("ALOCC_REDIRECT_HOSTS", raising=False)
    pack(parts / "all.zip", {"a/1.png": encoded(7)})
    reason = r"leads to another host, localhost; to allow that, set ALOCC_REDIRECT_HOSTS=localhost"
    with pytest.raises(DataError, match=reason):
        open_source(f"{server}/away/all.zip", "test")
    with pytest.raises(DataError, match=reason):
        open_source(f"{server}/away/good/", "test")
    with pytest.raises(DataError, match=reason):
        open_source(f"{server}/away/good/2.png", "test").load(GREY)
    for allowed in ("localhost", "a.example, localhost", "*"):
        monkeypatch.setenv("ALOCC_REDIRECT_HOSTS", allowed)
        assert values(open_source(f"{server}/away/good/2.png", "test").load(GREY)) == [10]
    monkeypatch.setenv("ALOCC_REDIRECT_HOSTS", "elsewhere.example")
    with pytest.raises(DataError, match=reason):
        open_source(f"{server}/away/good/2.png", "test").load(GREY)
    assert values(open_source(f"{server}/moved/good/2.png", "test").load(GREY)) == [10]

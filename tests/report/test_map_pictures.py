"""Pictures of ``alocc score --maps``: which images have one, what is in it, and what its file is called."""

import csv
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import alocc
from alocc.cli import main
from alocc.config import preset, with_settings
from alocc.map_pictures import LONGEST, PictureNames
from alocc.overlays import STRONGEST

PLANTED = slice(30, 42), slice(8, 20)
"""Rows and columns of the fault, in images of 60×50 pixels."""


def disc(rng, *, faulty=False):
    """A grey picture of a disc, 60×50, with a bright square on it where it is faulty."""
    rows, columns = np.mgrid[:60, :50]
    image = ((rows - 30) ** 2 + (columns - 25) ** 2 < 400) * 120 + rng.integers(0, 40, (60, 50))
    if faulty:
        image[PLANTED] = 250
    return image.astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run on discs at half of their size, and a folder of 12 good ones and 6 with a fault."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    settings = ["networks.width=4", "training.batch_size=16", "calibration.alpha=0.05", "images.size=[30,25]"]
    normals = np.stack([disc(rng) for _ in range(80)])
    alocc.train(normals, config=with_settings(preset("robust"), settings), iterations=40, out=root / "run")
    for name, n in (("good", 12), ("chipped", 6)):
        (root / "parts" / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(disc(rng, faulty=name == "chipped")).save(root / "parts" / name / f"{i:04}.png")
    return root


@pytest.fixture
def score(folder, monkeypatch, capsys):
    """Run ``alocc score`` with pictures in this process: standard error."""

    def score(data, out, *words, code=0):
        monkeypatch.setattr("sys.argv", ["alocc", "score", str(folder / "run"), str(data), "--maps", str(out), *words])
        monkeypatch.setenv("COLUMNS", "200")
        stopped = 0
        try:
            main()
        except SystemExit as end:
            stopped = end.code or 0
        _, err = capsys.readouterr()
        assert stopped == code, err
        return err

    return score


def below(folder):
    """Of pictures, or of images: without the list of suspects."""
    paths = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if path != "suspects.csv")


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))


def of_colour(path, colour):
    return (np.asarray(Image.open(path)) == colour).all(2)


def test_anomalies_have_an_outline_on_the_fault_and_a_box(score, folder, tmp_path):
    err = score(folder / "parts", tmp_path / "maps", "--out", str(tmp_path / "s.csv"))
    rows = rows_of(tmp_path / "s.csv")
    called = [row["path"].removeprefix(f"{folder}/parts/") for row in rows if row["is_anomaly"] == "true"]
    assert [name for name in called if name.startswith("chipped/")] == [f"chipped/{i:04}.png" for i in range(6)]
    assert below(tmp_path / "maps") == sorted(called) and f"{len(called)} pictures of 18 images written to" in err
    assert f"suspects.csv there lists what is not called normal: {len(called)}\n" in err
    for row in rows:
        box = [row[f"box_{side}"] for side in ("left", "top", "right", "bottom")]
        if row["is_anomaly"] == "false":
            assert box == [""] * 4
        elif "chipped" in row["path"]:
            left, top, right, bottom = map(int, box)
            assert 0 <= left < 20 and 8 < right <= 50 and 0 <= top < 42 and 30 < bottom <= 60
    for name in (f"chipped/{i:04}.png" for i in range(6)):
        with Image.open(tmp_path / "maps" / name) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        inside = 5 * 60, 5 * 50  # the smallest whole multiple that is not below 224 pixels
        margin = 8
        plain = pixels[margin : margin + inside[0], margin : margin + inside[1]]
        original = np.asarray(Image.open(folder / "parts" / name)).repeat(5, 0).repeat(5, 1)
        np.testing.assert_array_equal(plain, original[..., None].repeat(3, 2))  # every pixel of the file, untouched
        marked = pixels[margin : margin + inside[0], 2 * margin + inside[1] : 2 * margin + 2 * inside[1]]
        around = ndimage.binary_fill_holes((marked == STRONGEST).all(2))
        fault = np.zeros((60, 50), bool)
        fault[PLANTED] = True
        assert around[fault.repeat(5, 0).repeat(5, 1)].mean() > 0.6


def test_all_images_can_have_pictures_and_normal_ones_are_neither_marked_nor_coloured(score, folder, tmp_path):
    err = score(folder / "parts", tmp_path / "maps", "--maps-of", "all", "--out", str(tmp_path / "s.csv"))
    assert "18 pictures of 18 images written" in err
    n_called = len(rows_of(tmp_path / "maps" / "suspects.csv"))
    assert 6 <= n_called < 18 and f"lists what is not called normal: {n_called}\n" in err
    assert below(tmp_path / "maps") == below(folder / "parts")
    for row in rows_of(tmp_path / "s.csv"):
        path = tmp_path / "maps" / row["path"].removeprefix(f"{folder}/parts/")
        assert of_colour(path, STRONGEST).any() == (row["is_anomaly"] == "true")
        if row["is_anomaly"] == "false":
            pixels = np.asarray(Image.open(path))[8:308]
            np.testing.assert_array_equal(pixels[:, 8:258], pixels[:, 266:516])


@pytest.mark.parametrize("n", [1, 4, 100])
def test_of_a_number_the_most_anomalous_have_pictures(score, folder, tmp_path, n):
    err = score(folder / "parts", tmp_path / "maps", "--maps-of", str(n), "--out", str(tmp_path / "s.csv"))
    rows = sorted(rows_of(tmp_path / "s.csv"), key=lambda row: -float(row["anomaly_score"]))[:n]
    assert below(tmp_path / "maps") == sorted(row["path"].removeprefix(f"{folder}/parts/") for row in rows)
    assert f"{min(n, 18)} pictures of 18 images written" in err
    assert f"lists what is not called normal: {len(rows_of(tmp_path / 'maps' / 'suspects.csv'))}\n" in err


def test_a_false_discovery_rate_decides_what_is_pictured(score, folder, tmp_path):
    for rate in ("0.3", "0.000001"):
        out, table = tmp_path / rate, tmp_path / f"{rate}.csv"
        score(folder / "parts", out, "--fdr", rate, "--out", str(table), "--regions", str(tmp_path / "r.csv"))
        called = [row["path"].removeprefix(f"{folder}/parts/") for row in rows_of(table) if row["is_anomaly"] == "true"]
        assert below(out) == sorted(called) and bool(called) == (rate == "0.3")
        assert {row["path"].removeprefix(f"{folder}/parts/") for row in rows_of(tmp_path / "r.csv")} == set(called)


def test_pages_archives_arrays_and_twins_have_a_picture_each(score, folder, tmp_path):
    rng, data = np.random.default_rng(3), tmp_path / "data"
    data.mkdir()
    faulty = [Image.fromarray(disc(rng, faulty=True)) for _ in range(3)]
    for suffix in ("png", "jpg", "PNG"):
        faulty[0].save(data / f"a.{suffix}")
    faulty[0].save(data / "pages.tif", save_all=True, append_images=faulty[1:])
    score(data, tmp_path / "maps", "--maps-of", "all")
    assert below(tmp_path / "maps") == [
        "a-2.png", "a.jpg.png", "a.png", "pages.tif_page=0.png", "pages.tif_page=1.png", "pages.tif_page=2.png",
    ]  # fmt: skip
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("../../up.png", "one/a.png", "two/a.png", "CON.png"):
            archive.write(data / "a.png", name)
    score(tmp_path / "x.zip", tmp_path / "zipped", "--maps-of", "all")
    assert below(tmp_path / "zipped") == ["_CON.png", "one/a.png", "two/a.png", "up.png"]
    np.save(tmp_path / "x.npy", np.stack([np.asarray(image) for image in faulty]))
    score(tmp_path / "x.npy", tmp_path / "array", "--maps-of", "2")
    assert len(below(tmp_path / "array")) == 2 and below(tmp_path / "array")[0].startswith("x.npy_")
    left = np.asarray(Image.open(tmp_path / "array" / below(tmp_path / "array")[0]))[8:308, 8:258, 0][::5, ::5]
    assert any(np.array_equal(left, np.asarray(image)) for image in faulty)


def test_frames_of_a_video_are_drawn_as_they_were(score, tmp_path):
    av = pytest.importorskip("av")
    frames = [np.full((60, 50, 3), 20 * i, np.uint8) for i in range(10)]
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 50, 60, "bgr0"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    score(tmp_path / "x.mkv", tmp_path / "maps", "--maps-of", "all")
    names = below(tmp_path / "maps")
    assert names[3] == "x.mkv_t=0_00_00.300.png" and len(names) == 10
    for name, frame in zip(names, frames, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "maps" / name))[8:308, 8:258][::5, ::5], frame)


@pytest.mark.parametrize(
    ("where", "name", "wanted"),
    [
        ("parts", "parts/chipped/0000.png", "chipped/0000.png"),
        ("/far/parts", "/far/parts/a/b/c.JPG", "a/b/c.JPG.png"),
        (".", "chipped/0.png", "chipped/0.png"),
        ("parts/**/*.png", "parts/a/0.png", "a/0.png"),
        ("lists/t.csv", "lists/../../etc/a.png", "etc/a.png"),
        ("parts/a.png", "parts/a.png", "a.png"),
        ("x.zip", "x.zip/a/b.bmp", "a/b.bmp.png"),
        ("belt.mp4", "belt.mp4#t=0:01:02.345", "belt.mp4_t=0_01_02.345.png"),
        ("https://host/x.zip", "https://host/x.zip/a.png", "a.png"),
        ("parts", "parts\\left\\a.png", "left/a.png"),
        ("parts", 'parts/what?<"x">.png', "what___x__.png"),
        ("parts", "parts/nul/com1.png", "_nul/_com1.png"),
        ("parts", "parts/end. /a.png", "end/a.png"),
        ("parts", "parts/" + "d/" * 50 + "a.png", "d/" * 8 + "a.png"),
        ("mnist", "mnist/test/7/12", "test/7/12.png"),
    ],
)
def test_a_picture_is_called_like_its_image_below_the_source(where, name, wanted):
    assert PictureNames(where).of(name).as_posix() == wanted


def test_no_two_images_have_one_picture():
    names = PictureNames("x")
    found = [
        names.of(f"x/{name}").as_posix() for name in ("a.png", "A.png", "a.png/b.png", "a?.png", "a*.png", "a.png")
    ]
    assert found == ["a.png", "A-2.png", "a.png-2/b.png", "a_.png", "a_-2.png", "a-3.png"]
    names = PictureNames("x")
    assert [names.of(f"x/{name}").as_posix() for name in ("a.png/b.png", "a.png")] == ["a.png/b.png", "a-2.png"]


@pytest.mark.parametrize("letter", ["x", "é", "部"])
def test_long_names_keep_their_end(letter):
    name = PictureNames("").of(300 * letter + "7.jpg").name
    assert name.endswith(letter + "7.jpg.png") and len(os.fsencode(name)) <= LONGEST + 4


def test_no_file_but_an_older_picture_is_overwritten(score, folder, tmp_path):
    before = {path: path.read_bytes() for path in (folder / "parts").rglob("*.png")}
    for inside in ("parts", "parts/maps"):
        err = score(folder / "parts", folder / inside, code=2)
        assert f"it lies in {folder / 'parts'}, and pictures would count as images" in err
    copies = tmp_path / "copies"
    shutil.copytree(folder / "parts", copies)
    err = score(folder / "parts", copies, code=2)
    assert "is no picture of alocc's; give another folder" in err
    assert {path.relative_to(copies) for path in copies.rglob("*.png")} == {
        path.relative_to(folder / "parts") for path in before
    }
    assert {path: path.read_bytes() for path in (folder / "parts").rglob("*.png")} == before
    for _ in range(2):
        score(folder / "parts", tmp_path / "maps")
    (tmp_path / "outside").mkdir()
    (tmp_path / "linked").mkdir()
    try:
        (tmp_path / "linked" / "chipped").symlink_to(tmp_path / "outside")
    except OSError:
        pytest.skip("this system makes no links")
    assert "leads elsewhere" in score(folder / "parts", tmp_path / "linked", code=2)
    assert not below(tmp_path / "outside")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--maps-of", "none"], "--maps-of must be all, anomalies, review or a number from 1 on, got 'none'"),
        (["--maps-of", "0"], "--maps-of must be all, anomalies, review or a number from 1 on, got '0'"),
        (["--maps-of", "-3"], "--maps-of must be"),
        (["--maps-of", "review"], "--maps-of review draws what is between two rates; give --review-alpha too"),
    ],
)
def test_what_is_no_choice_of_images_is_one_line(score, folder, tmp_path, words, message):
    err = score(folder / "parts", tmp_path / "maps", *words, code=2)
    assert message in err and err.count("\n") == 1 and not (tmp_path / "maps").exists()


def test_a_file_is_no_folder_for_pictures(score, folder, tmp_path):
    (tmp_path / "maps").write_text("")
    assert "that is a file; give a folder" in score(folder / "parts", tmp_path / "maps", code=2)


def test_an_image_that_vanishes_meanwhile_is_drawn_at_the_detectors_size(folder, tmp_path):
    from alocc.data.sources import open_source
    from alocc.map_pictures import MapPictures

    path = Path(tmp_path / "data" / "a.png")
    path.parent.mkdir()
    Image.fromarray(disc(np.random.default_rng(5), faulty=True)).save(path)
    detector = alocc.Detector.load(folder / "run")
    [images] = open_source(tmp_path / "data", "test").batches(detector.image_format)
    scores = detector.score(images.images, maps=True)
    path.unlink()
    pictures = MapPictures(detector, tmp_path / "maps", "all", str(tmp_path / "data"))
    pictures.add(images, scores, detector.regions(images.images, scores, sizes=images.sizes))
    with Image.open(tmp_path / "maps" / "a.png") as picture:
        assert picture.height > 240 and pictures.n_written == 1


def test_a_list_or_a_link_that_is_not_ours_is_left_alone(score, folder, tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/suspects.csv").write_text("my own list\n")
    assert "is no list of alocc's" in score(folder / "parts", tmp_path / "maps", code=2)
    assert (tmp_path / "maps/suspects.csv").read_text() == "my own list\n" and len(
        list((tmp_path / "maps").iterdir())
    ) == 1
    (tmp_path / "linked").mkdir()
    (tmp_path / "elsewhere.csv").write_text("path,anomaly_score,p_value,picture\n")
    (tmp_path / "linked/suspects.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert "is no list of alocc's" in score(folder / "parts", tmp_path / "linked", code=2)
    for option in ("--out", "--regions"):
        same = str(tmp_path / "new/suspects.csv")
        assert "that is the list of suspects" in score(folder / "parts", tmp_path / "new", option, same, code=2)
    score(folder / "parts", tmp_path / "new")
    score(folder / "parts", tmp_path / "new")  # one of ours is written anew
    assert rows_of(tmp_path / "new/suspects.csv")
    assert "at most 1,000" in score(folder / "parts", tmp_path / "new", "--maps-of", "1001", code=2)

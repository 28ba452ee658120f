"""docs/bad-input.md, line by line, through the command line: skipped, named and counted, or one error and code 2."""

import csv
import io
import json
import os
import struct
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alocc.cli import main

TINY = ["--set", "networks.width=4", "--set", "training.batch_size=16", "--iterations", "10"]


@pytest.fixture
def alocc(monkeypatch, capsys):
    """Run the command line in this process: exit code, standard output, standard error."""

    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        assert (stopped.value.code or 0) == code, out + err
        return out, err

    return run


def disc(rng, side=20):
    rows, columns = np.mgrid[:side, :side] - side / 2 + rng.uniform(-2, 2)
    return ((rows**2 + columns**2 < side) * 180 + rng.integers(0, 40, (side, side))).astype(np.uint8)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """40 normal images."""
    root = tmp_path_factory.mktemp("good")
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(disc(rng)).save(root / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def run_folder(good, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["alocc", "train", str(good), "--out", str(out), *TINY])
        main()
    assert not stopped.value.code
    return out


def png_claiming(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def encoded(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind):
    frames = [Image.fromarray(np.full((20, 20, 3), value, np.uint8)) for value in (0, 90, 250)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


FLAT = np.full((20, 20), 90, np.uint8)
SKIPPED = {
    "truncated.png": (encoded(np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8))[:900], "cannot be read"),
    "empty.png": (b"", "is not a PNG, JPEG, BMP, TIFF, WEBP image"),
    "words.jpg": (b"these are words", "is not a PNG, JPEG"),
    "gif.png": (encoded(FLAT, "GIF"), "is not a PNG, JPEG"),
    "large.png": (png_claiming(8_001, 10_000), "8001×10000 pixels; 80,000,000 are allowed"),
    "bomb.png": (png_claiming(20_000, 20_000), "far more than the 80,000,000 pixels that are allowed"),
    "strip.png": (encoded(np.zeros((1, 51), np.uint8)), "51×1 pixels are more than 50 times longer than wide"),
    "moving.webp": (animation("WEBP"), "an animation of 3 frames"),
    "moving.png": (animation("PNG"), "an animation of 3 frames"),
    "float.tif": (encoded(FLAT.astype(np.float32), "TIFF"), "floating-point pixels have no known range"),
}
SCORED = {
    "named-wrongly.png": encoded(np.dstack([FLAT] * 3), "JPEG"),
    "16-bit.png": encoded(FLAT.astype(np.uint16) * 257),
    "larger.png": encoded(np.full((300, 100), 90, np.uint8)),
    "1x1.png": encoded(FLAT[:1, :1]),
    "back\\slash.png": encoded(FLAT),
    "CON.png": encoded(FLAT),
    "nul.PNG": encoded(FLAT),
    "space .png": encoded(FLAT),
    "dots...png": encoded(FLAT),
    "Größe 日本.png": encoded(FLAT),
    'new\nline, "quoted"\r.png': encoded(FLAT),
    "folder.png/in it.png": encoded(FLAT),
}
PASSED_OVER = ["trailing dot.png.", "trailing space.png ", ".hidden.png", "notes.txt"]


def fill(root):
    """Everything odd in one folder: names → reasons, None for what can be scored."""
    expected = {}
    for name, content in SCORED.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
        expected[name] = None
    for name, (content, reason) in SKIPPED.items():
        (root / name).write_bytes(content)
        expected[name] = reason
    for name in PASSED_OVER:
        (root / name).write_bytes(encoded(FLAT))
    (root / "no files.png").mkdir()
    (root / "dangling.png").symlink_to(root / "nowhere.png")
    (root / "circle.png").symlink_to(root / "circle.png")
    (root / "around").symlink_to(root, target_is_directory=True)
    os.mkfifo(root / "pipe.png")
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe.png")).write_bytes(encoded(FLAT))
    return expected | {
        "dangling.png": "No such file",
        "circle.png": "symbolic links",
        "pipe.png": "not an ordinary file",
        "\\xff\\xfe.png": None,
    }


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    root = tmp_path_factory.mktemp("odd")
    return root, fill(root)


posix = pytest.mark.skipif(os.name == "nt", reason="pipes, and names that Windows does not allow")


@posix
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_each_odd_file_is_scored_or_named_with_its_reason(alocc, run_folder, odd, tmp_path, suffix):
    root, expected = odd
    out = tmp_path / f"s.{suffix}"
    _, err = alocc("score", run_folder, root, "--out", out)
    if suffix == "csv":
        with out.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in out.read_bytes().decode("utf-8").split("\n")[:-1]]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(out).to_pylist()
    errors = {row["path"].removeprefix(f"{root}/"): row["error"] or None for row in rows}
    assert errors.keys() == expected.keys() and len(rows) == len(expected)
    for name, reason in expected.items():
        assert (reason is None) == (errors[name] is None), (name, errors[name])
        assert reason is None or (reason in errors[name] and name in errors[name])
    assert all((row["anomaly_score"] in ("", None)) == bool(row["error"]) for row in rows)
    n_skipped = sum(reason is not None for reason in expected.values())
    assert f"{n_skipped} images could not be used" in err


@posix
def test_odd_names_in_maps_standard_output_json_and_report(alocc, run_folder, odd, tmp_path):
    root, expected = odd
    out, _ = alocc("score", run_folder, root, "--json", "--maps", tmp_path / "maps")
    result = json.loads(out)
    n_skipped = sum(reason is not None for reason in expected.values())
    assert (result["n_images"], len(result["skipped"])) == (len(expected) - n_skipped, n_skipped)
    assert len(list((tmp_path / "maps").iterdir())) == result["n_images"]
    assert "\\xff\\xfe.png" in alocc("score", run_folder, root)[0]
    alocc("report", run_folder, f"{root}/*g", "--out", tmp_path / "r.html")
    assert "\\xff\\xfe.png" in (tmp_path / "r.html").read_text(encoding="utf-8")
    found = json.loads(alocc("inspect", root, "--json")[0])
    assert (found["n_images"], len(found["skipped"])) == (result["n_images"], n_skipped)


def test_run_folder_names_what_training_could_not_use(alocc, good, tmp_path):
    (tmp_path / "some").mkdir()
    for i in range(12):
        (tmp_path / "some" / f"{i}.png").write_bytes((good / f"{i:02}.png").read_bytes())
    for name, (content, _) in SKIPPED.items():
        (tmp_path / "some" / name).write_bytes(content)
    _, err = alocc("train", tmp_path / "some", "--out", tmp_path / "s", *TINY)
    notes = json.loads((tmp_path / "s" / "run.json").read_text())
    assert {Path(item["name"]).name for item in notes["skipped"]} == set(SKIPPED)
    assert notes["n_skipped"] == len(SKIPPED) and f"{len(SKIPPED)} images could not be used" in err


@pytest.fixture(scope="module")
def one_bad(good, tmp_path_factory):
    """A class of 12 normal images and one broken one, beside another class."""
    root = tmp_path_factory.mktemp("one_bad")
    rng = np.random.default_rng(1)
    for name in ("good", "bent"):
        (root / name).mkdir()
        for i in range(12):
            Image.fromarray(disc(rng)).save(root / name / f"{i}.png")
    (root / "good" / "broken.png").write_bytes(b"")
    return root


@pytest.mark.parametrize(
    "words",
    [
        "train DATA --normal good --out OUT",
        "train DATA --normal bent --watch DATA --anomalous good --out OUT",
        "score RUN DATA --out OUT",
        "evaluate RUN DATA --normal good",
        "calibrate RUN DATA --normal good --out OUT",
        "monitor RUN DATA",
        "check RUN DATA --normal good --no-second-seed",
        "inspect DATA --sheet OUT.png",
    ],
)
def test_strict_stops_every_command_at_an_image_that_cannot_be_used(alocc, run_folder, one_bad, tmp_path, words):
    before = {path: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
    places = {"DATA": one_bad, "RUN": run_folder, "OUT.png": tmp_path / "out.png", "OUT": tmp_path / "out.csv"}
    spelled = words
    for name, place in places.items():
        spelled = spelled.replace(name, str(place))
    _, err = alocc(*spelled.split(), "--strict", *(TINY if "train" in words else ()), code=2)
    assert err.count("\n") == 1 and "broken.png is not a PNG" in err and "--strict" in err
    assert list(tmp_path.iterdir()) == []
    assert before == {path: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}


def test_unreadable_files_and_folders_are_named(alocc, run_folder, tmp_path):
    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("whoever runs this may read everything")
    for name in ("a.png", "b.png", "locked/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(FLAT))
    (tmp_path / "a.png").chmod(0)
    (tmp_path / "locked").chmod(0)
    skipped = json.loads(alocc("score", run_folder, tmp_path, "--json")[0])["skipped"]
    (tmp_path / "locked").chmod(0o700)
    assert [Path(item["name"]).name for item in skipped] == ["locked", "a.png"]
    assert all("Permission denied" in item["reason"] for item in skipped)


def bad_zip(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.png", encoded(FLAT))
    path.write_bytes(path.read_bytes()[:-30])


def bad_tar(path):
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("1.png")
        info.size = 5000
        file.addfile(info, io.BytesIO(np.random.default_rng(0).bytes(5000)))
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


def huge_npz(path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000, 1000, 10000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


ERRORS = {
    "empty": (Path.mkdir, "holds no image files"),
    "notes.txt": (lambda path: path.write_text("words"), "notes.txt is not a PNG"),
    "only.png": (lambda path: path.symlink_to(path), "does not exist"),
    "x" * 300 + ".mp4": (None, "File name too long"),
    "pipe.csv": (os.mkfifo if os.name != "nt" else None, "neither an ordinary file nor a folder"),
    "empty.csv": (Path.touch, "holds no image files"),
    "latin.csv": (lambda path: path.write_bytes(b"path\nGr\xf6\xdfe.png\n"), "cannot be read as a table"),
    "bad.zip": (bad_zip, "cannot be read as an archive"),
    "bad.tgz": (bad_tar, "cannot be read as an archive"),
    "bad.npy": (lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'"), "cannot be read as arrays"),
    "huge.npz": (huge_npz, "cannot be read as arrays"),
    "bad-idx3-ubyte": (lambda path: path.write_bytes(b"\0\0\x08\x03\xff\xff\xff\xff\0\0"), "truncated"),
}


@pytest.mark.parametrize("name", ERRORS, ids=lambda name: name[-20:])
def test_data_that_cannot_be_used_at_all_is_one_line_and_code_2(alocc, run_folder, tmp_path, name):
    make, reason = ERRORS[name]
    if make:
        make(tmp_path / name)
    _, err = alocc("score", run_folder, tmp_path / name, "--out", tmp_path / "s.csv", code=2)
    assert reason in err and err.count("\n") == 1 and not (tmp_path / "s.csv").exists()


def test_a_table_with_lines_that_lead_nowhere_names_them(alocc, run_folder, good, tmp_path):
    lines = ["path", f"{good}/00.png", "gone.png", "x" * 5000 + ".png", "", str(good)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    result = json.loads(alocc("score", run_folder, tmp_path / "list.csv", "--json")[0])
    assert result["n_images"] == 1
    found = [item["reason"] for item in result["skipped"]]
    assert [reason.rpartition("list.csv ")[2][:21] for reason in found[:2]] == [
        "line 3: no file 'gone",
        "line 4: no file 'xxxx",
    ]
    assert "not an ordinary file" in found[2] and len(found) == 3


def test_one_image_can_be_scored_but_not_trained_on(alocc, run_folder, good, tmp_path):
    assert json.loads(alocc("score", run_folder, good / "00.png", "--json")[0])["n_images"] == 1
    _, err = alocc("train", good / "00.png", "--out", tmp_path / "r", *TINY, code=2)
    assert "too few" in err or "at least" in err


def test_images_that_are_all_the_same_train_a_detector_that_knows_them(alocc, good, tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes((good / "00.png").read_bytes())
    alocc("train", tmp_path, "--out", tmp_path / "r", *TINY)
    same = json.loads(alocc("score", tmp_path / "r", tmp_path, "--json")[0])
    assert same["n_anomalies"] == 0 and len({row["anomaly_score"] for row in same["images"]}) == 1
    other = json.loads(alocc("score", tmp_path / "r", good / "01.png", "--json")[0])["images"][0]
    assert other["anomaly_score"] > same["images"][0]["anomaly_score"]

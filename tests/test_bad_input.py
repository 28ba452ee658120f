"""docs/bad-input.md, line by line, through the command line: skipped, named and counted, or one error and code 2."""

import csv
import io
import json
import os
import re
import struct
import sys
import tarfile
import tempfile
import threading
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alocc.cli import main
from alocc.data import mnist

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
    "empty.png": (b"", "the file is empty"),
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
    out, _ = alocc("score", run_folder, root, "--json", "--maps", tmp_path / "maps", "--maps-of", "all")
    result = json.loads(out)
    n_skipped = sum(reason is not None for reason in expected.values())
    assert (result["n_images"], len(result["skipped"])) == (len(expected) - n_skipped, n_skipped)
    assert sum(path.is_file() for path in (tmp_path / "maps").rglob("*")) == result["n_images"] + 1  # and the list
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
    assert err.count("\n") == 1 and "broken.png cannot be read (the file is empty)" in err and "--strict" in err
    assert list(tmp_path.iterdir()) == []
    assert before == {path: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}


@contextmanager
def without_privileges():
    """Root may read everything, so it becomes nobody for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@posix
def test_unreadable_files_and_folders_are_named(alocc, run_folder):
    with tempfile.TemporaryDirectory() as made:  # pytest's own folders are closed to others
        root = Path(made)
        root.chmod(0o755)
        (root / "model.safetensors").write_bytes((run_folder / "model.safetensors").read_bytes())
        for name in ("a.png", "b.png", "locked/c.png"):
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(encoded(FLAT))
        words = ("score", root / "model.safetensors", root, "--json")
        assert json.loads(alocc(*words)[0])["n_images"] == 3  # and all libraries are loaded
        (root / "a.png").chmod(0)
        (root / "locked").chmod(0)
        with without_privileges():
            result = json.loads(alocc(*words)[0])
        (root / "locked").chmod(0o700)
    assert [Path(item["name"]).name for item in result["skipped"]] == ["locked", "a.png"]
    assert all("Permission denied" in item["reason"] for item in result["skipped"]) and result["n_images"] == 1


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory):
    """Twelve images of each of the classes 1, 7 and "8, new"."""
    root = tmp_path_factory.mktemp("classes")
    rng = np.random.default_rng(2)
    for name in ("1", "7", "8, new"):
        (root / name).mkdir()
        for i in range(12):
            Image.fromarray(disc(rng)).save(root / name / f"{i}.png")
    return root


SPELLINGS = {
    "commas": ["--normal", "1,{}"],
    "commas and blanks": ["--normal", "1, {}"],
    "words": ["--normal", "1", "{}"],
    "repeated": ["--normal", "1", "--normal", "{}"],
    "an equals sign": ["--normal=1,{}"],
}


@pytest.mark.parametrize("spelled", SPELLINGS)
@pytest.mark.parametrize(
    "words",
    [
        "train DATA NORMAL --out OUT",
        "evaluate RUN DATA NORMAL",
        "report RUN DATA NORMAL --out OUT",
        "check RUN DATA NORMAL --no-second-seed",
        "calibrate RUN DATA NORMAL --out OUT",
        "export RUN --int8 --data DATA NORMAL --out OUT.onnx",
    ],
)
def test_every_command_reads_classes_alike(alocc, run_folder, three_classes, tmp_path, words, spelled):
    places = {"DATA": three_classes, "RUN": run_folder, "OUT": tmp_path / "out", "OUT.onnx": tmp_path / "out.onnx"}
    normal = [word.format("9") for word in SPELLINGS[spelled]]
    line = [part for word in words.split() for part in (normal if word == "NORMAL" else [places.get(word, word)])]
    _, err = alocc(*line, code=2)
    assert 'has no class "9"' in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_classes_that_are_read_are_those_that_count(alocc, run_folder, three_classes, tmp_path, spelled):
    normal = [word.format("7") for word in SPELLINGS[spelled]]
    figures = json.loads(alocc("evaluate", run_folder, three_classes, *normal, "--bootstrap", 0, "--json")[0])
    assert (figures["n_normal"], figures["n_anomalous"]) == (24, 12)
    _, err = alocc("calibrate", run_folder, three_classes, *normal, "--out", tmp_path / "m.safetensors")
    assert "from 24 normal images" in err and "counted as normal: 1 (12), 7 (12)\n" in err


def test_words_behind_a_class_list_are_classes_but_for_those_the_line_needs(alocc, run_folder, three_classes):
    def counts(*words):
        figures = json.loads(alocc("evaluate", *words, "--bootstrap", 0, "--json")[0])
        return figures["n_normal"], figures["n_anomalous"]

    assert counts("--normal", "1", "7", run_folder, three_classes) == (24, 12)
    assert counts(run_folder, "--normal", "1", three_classes, "--anomalous", "7") == (12, 12)
    assert "give DATA" in alocc("report", run_folder, "--normal", "1", "7", code=2)[1]  # 7 is not DATA
    assert "Missing argument 'DATA'" in alocc("calibrate", run_folder, "--normal", "7", code=2)[1]
    _, err = alocc("check", run_folder, "--normal", "1", code=2)
    assert err == "error: --normal says which classes of DATA are normal; give DATA too, or leave the option out\n"


def test_other_lists_take_several_words_too(alocc, three_classes, tmp_path):
    lists = ["--methods", "5-nn", "pca", "--classes", "1", "7"]
    table = json.loads(alocc("benchmark", "one-vs-rest", three_classes, *lists, "--out", tmp_path, "--json")[0])
    assert len(table["rows"]) == 2 and all({"1", "7"} <= row.keys() for row in table["rows"].values())
    assert all("8, new" not in row for row in table["rows"].values())


@pytest.mark.parametrize("words", [["8, new"], ["8, new", "1"], ["1", "8, new"]])
def test_a_class_with_a_comma_in_its_name_can_be_named(alocc, run_folder, three_classes, tmp_path, words):
    figures = json.loads(alocc("evaluate", run_folder, three_classes, "--normal", *words, "--json")[0])
    assert figures["n_normal"] == 12 * len(words)
    alocc("train", three_classes, "--normal", *words, "--out", tmp_path / "r", *TINY)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["normal_classes"] == words


@pytest.mark.parametrize(
    ("words", "empty"),
    [
        (["inspect", ""], "an argument"),
        (["score", "RUN", ""], "an argument"),
        (["score", "", "DATA"], "an argument"),
        (["score", "RUN", "DATA", "--out", ""], "--out"),
        (["score", "RUN", "DATA", "--maps="], "--maps"),
        (["score", "RUN", "DATA", "--maps-of="], "--maps-of"),
        (["train", "DATA", "--out", ""], "--out"),
        (["train", "DATA", "--out", "OUT", "--normal", ""], "--normal"),
        (["train", "DATA", "--out", "OUT", "--watch", ""], "--watch"),
        (["calibrate", "RUN", "DATA", "--out="], "--out"),
        (["export", "RUN", "--out", ""], "--out"),
        (["report", "RUN", "--out", ""], "--out"),
        (["monitor", "RUN", ""], "an argument"),
        (["info", ""], "an argument"),
    ],
    ids=" ".join,
)
def test_an_empty_word_is_no_working_directory(alocc, run_folder, good, tmp_path, monkeypatch, words, empty):
    monkeypatch.chdir(tmp_path)
    places = {"DATA": good, "RUN": run_folder, "OUT": tmp_path / "out"}
    _, err = alocc(*(places.get(word, word) for word in words), code=2)
    assert err == f"error: {empty} is empty; is a variable not set?\n" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("score RUN DATA --only x", "--only: must be one of 'anomalies', 'review', got 'x'; see alocc score --help"),
        ("score RUN DATA --alpha abc", "--alpha: must be a number, got 'abc'; see alocc score --help"),
        ("score RUN DATA --top 0", "--top: must be at least 1, got '0'; see alocc score --help"),
        ("score RUN DATA more", "Got unexpected extra argument(s) (more); see alocc score --help"),
        ("score RUN", "Missing argument 'DATA'; see alocc score --help"),
        ("train DATA --out OUT --contamination 2", "--contamination: must be at most 0.25, got '2'; see alocc train "
         "--help"),
        ("train DATA --out OUT --seed 1.5", "--seed: must be a whole number, got '1.5'; see alocc train --help"),
        ("train DATA --out OUT --alpha 2", "alpha: must be less than 1, got 2.0"),
        ("train DATA --out OUT --config EMPTY.toml", 'EMPTY.toml holds no key; a config has at least '
         'one, as preset = "robust"'),
        ("train EMPTY.png --out OUT", "EMPTY.png cannot be read (the file is empty)"),
        ("train *.none --out OUT", "*.none matches no image files (.bmp, .jpeg, .jpg, .png, .tif, .tiff, .webp)"),
        ("score EMPTY.safetensors DATA", "EMPTY.safetensors is damaged or was not written by alocc (the file is "
         "empty)"),
        ("info nowhere", "nowhere does not exist; give a run folder, or a detector's file"),
        ("compare RUN RUN", "RUN and RUN are the same detector, which says the same of all images; leave one"),
        ("nothing", "No such command 'nothing'; see alocc --help"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line_that_says_what_to_give(alocc, run_folder, good, tmp_path, monkeypatch, words, error):
    monkeypatch.chdir(tmp_path)
    for suffix in ("toml", "png", "safetensors"):
        (tmp_path / f"EMPTY.{suffix}").touch()
    for name, path in (("RUN", run_folder), ("DATA", good)):
        (tmp_path / name).symlink_to(path)
    assert alocc(*words.split(), code=2) == ("", f"error: {error}\n")
    assert not (tmp_path / "OUT").exists()


def test_info_is_in_words(alocc, run_folder):
    out = " ".join(alocc("info", run_folder)[0].split())  # the table is as wide as the terminal
    assert "40 images train, 40 set the threshold, cross-fitted in 2 folds" in out
    assert "20×20 grey (width × height); the images have 20×20" in out
    assert "sha256" not in out and "n held out" not in out


def test_images_that_look_different_are_noted_once(alocc, run_folder, good, tmp_path):
    (tmp_path / "dark").mkdir()
    for i in range(12):
        Image.fromarray(disc(np.random.default_rng(i)) // 4).save(tmp_path / "dark" / f"{i}.png")
    for maps in ([], ["--maps", tmp_path / "m"]):
        [line] = [
            line
            for line in alocc("score", run_folder, tmp_path / "dark", *maps)[1].splitlines()
            if "look different" in line
        ]
        assert line.startswith("note: these images look different from those trained on: brightness")
    assert "note:" not in alocc("score", run_folder, good)[1]


def test_duplicates_are_mentioned_when_a_training_starts(alocc, good, tmp_path):
    for path in good.iterdir():
        (tmp_path / path.name).symlink_to(path)
    assert "duplicate (" not in alocc("train", tmp_path, "--out", tmp_path / "a", *TINY)[1]
    (tmp_path / "again.png").symlink_to(good / "07.png")
    assert "1 image is a duplicate (" in alocc("train", tmp_path, "--out", tmp_path / "b", *TINY)[1]


def test_a_list_of_nothing_names_no_class(alocc, run_folder, three_classes):
    assert "' , ' names no class" in alocc("evaluate", run_folder, three_classes, "--normal", " , ", code=2)[1]


def test_calibrate_takes_what_is_embedded_and_does_not_ask_the_network(alocc, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "MIRRORS", ())
    monkeypatch.setattr(mnist, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("ALOCC_DATA", raising=False)
    ones, _ = mnist.load_mnist("test", ["1"])
    np.savez(tmp_path / "ones.npz", images=ones[:30], labels=["1"] * 30)
    alocc("train", tmp_path / "ones.npz", "--out", tmp_path / "r", "--preset", "article", *TINY)
    _, err = alocc("calibrate", tmp_path / "r", "mnist", "--out", tmp_path / "m.safetensors")
    assert "from 6,742 normal images" in err


ESCAPES = ("\x1b]0;owned\x07", "\x1b[2J", "\x9b2J", "line\nend", "\u202egnp")


@posix
def test_names_never_control_a_terminal(alocc, run_folder, good, tmp_path, monkeypatch):
    for i, escape in enumerate(ESCAPES):
        (tmp_path / f"class{escape}").mkdir()
        for j in range(3):
            (tmp_path / f"class{escape}" / f"[a]{escape}{j}.png").write_bytes((good / f"{i:02}.png").read_bytes())
        (tmp_path / f"bad{escape}.png").write_bytes(b"no image")
    controls = re.compile(r"\x1b\]|\x1b\[2J|[\x07\x9b\u202e]|line\n")
    run, data = str(run_folder), str(tmp_path)
    for shows_good_images, *words in (
        (True, "score", run, data),
        (True, "inspect", data),
        (True, "monitor", run, data),
        (False, "train", data, "--out", data),
        (False, "evaluate", run, data, "--normal", "x"),
        (False, "score", run, f"{data}/bad{ESCAPES[0]}.png", f"{data}/bad{ESCAPES[1]}.png"),
    ):
        text = on_terminal(monkeypatch, words)
        assert not controls.search(text), (words, text)
        assert r"\x1b[2J" in text, (words, text)
        assert ("[a]" in text) == shows_good_images, (words, text)
    csv_text, _ = alocc("score", run_folder, tmp_path)  # into a file or a pipe names go as they are
    assert all(escape in csv_text for escape in ESCAPES)


def on_terminal(monkeypatch, words):
    """What a terminal would get."""
    ours, theirs = os.openpty()
    received = []

    def receive():
        with suppress(OSError):  # the other end is closed
            while part := os.read(ours, 4096):
                received.append(part)

    reader = threading.Thread(target=receive)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal, monkeypatch.context() as patch:
        for stream in ("stdout", "stderr"):
            patch.setattr(sys, stream, terminal)
        patch.setattr(sys, "argv", ["alocc", *words])
        patch.setenv("COLUMNS", "400")
        with pytest.raises(SystemExit):
            main()
    reader.join()
    os.close(ours)
    return b"".join(received).decode("utf-8", "surrogateescape").replace("\r\n", "\n")


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
    "empty.csv": (Path.touch, "names no images"),
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
    assert err == "error: too few normal images to train on: 1; give at least 10\n"
    assert not (tmp_path / "r").exists()


def test_images_that_are_all_the_same_train_a_detector_that_knows_them(alocc, good, tmp_path):
    for i in range(30):
        (tmp_path / f"{i}.png").write_bytes((good / "00.png").read_bytes())
    alocc("train", tmp_path, "--out", tmp_path / "r", *TINY)
    same = json.loads(alocc("score", tmp_path / "r", tmp_path, "--json")[0])
    assert same["n_anomalies"] == 0 and len({row["anomaly_score"] for row in same["images"]}) == 1
    other = json.loads(alocc("score", tmp_path / "r", good / "01.png", "--json")[0])["images"][0]
    assert other["anomaly_score"] > same["images"][0]["anomaly_score"]

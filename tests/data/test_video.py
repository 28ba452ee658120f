"""Videos: turned as their display matrix says, and never cut short in silence."""

import json
import struct
import sys

import numpy as np
import pytest

from alocc.cli import main
from alocc.config import ImagesConfig
from alocc.data.images import ImageFormat
from alocc.data.sources import open_source
from alocc.data.video import frames
from alocc.errors import DataError

av = pytest.importorskip("av")
N = 60
KINDS = {"mp4": "mpeg4", "mov": "mpeg4", "avi": "mpeg4", "mkv": "mpeg4", "webm": "libvpx", "mpg": "mpeg2video"}
AS_IT_IS, QUARTER = (1, 0, 0, 1), (0, 1, -1, 0)
UPRIGHT = {  # a, b, c, d: column, row → a · column + c · row, b · column + d · row
    AS_IT_IS: lambda image: image,
    QUARTER: lambda image: np.rot90(image, -1),  # as telephones film upright: a quarter turn clockwise
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, -1, 1, 0): np.rot90,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (0, 1, 1, 0): lambda image: image.swapaxes(0, 1),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).swapaxes(0, 1),
}


def write(path, n=N):
    """A video of 6 s at 10 frames a second: noise that compresses badly, below it a bright block on the left."""
    rng = np.random.default_rng(0)
    options = {"movflags": "faststart"} if path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(KINDS[path.suffix[1:]], rate=25 if path.suffix == ".mpg" else 10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.bit_rate = 2_000_000
        for _ in range(n):
            pixels = rng.integers(0, 100, (48, 64, 3), dtype=np.uint8)
            pixels[32:, :24] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    return {kind: write(root / f"belt.{kind}") for kind in KINDS}


def read(path):
    """All frames, and why there are no more."""
    found = []
    try:
        for _, image in frames(path):
            found.append(image)
    except DataError as error:
        return found, str(error)
    return found, ""


@pytest.fixture(scope="module")
def all_frames(complete):
    return {kind: read(path) for kind, path in complete.items()}


@pytest.mark.parametrize("matrix", UPRIGHT, ids=str)
def test_frames_are_turned_and_mirrored_as_their_matrix_says(complete, tmp_path, matrix):
    content = bytearray(complete["mp4"].read_bytes())
    place = content.index(b"tkhd") + 44
    assert content[place : place + 4] == b"\0\1\0\0"
    a, b, c, d = (65_536 * x for x in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(content)
    (_, plain), (_, turned) = next(frames(complete["mp4"])), next(frames(path))
    np.testing.assert_array_equal(turned, UPRIGHT[matrix](plain))
    assert plain[40, 8].min() > 200 and plain[:24].max() < 150
    height, width = turned.shape[:2]
    source = open_source(path, "test")
    assert source.infer_format(ImagesConfig()) == ImageFormat(height, width, 3)
    assert source.load(ImageFormat(height, width, 3)).images.shape == (N, 3, height, width)


@pytest.mark.parametrize("kind", KINDS)
def test_a_complete_video_is_read_to_its_end(all_frames, kind):
    found, reason = all_frames[kind]
    assert len(found) == N and reason == ""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.3, 0.7])
def test_a_video_that_was_cut_short_is_reported_behind_its_good_frames(complete, all_frames, tmp_path, kind, kept):
    path = tmp_path / complete[kind].name
    content = complete[kind].read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    found, reason = read(path)
    assert path.name in reason and ("is damaged after 0:00:0" in reason or "and should last 0:00:06.000" in reason)
    assert 0.1 * N < len(found) < 0.9 * N
    np.testing.assert_array_equal(found, all_frames[kind][0][: len(found)])


def test_damage_in_the_middle_is_reported(complete, tmp_path):
    for kind in ("mp4", "avi", "mpg"):
        content = bytearray(complete[kind].read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3_000] = bytes(3_000)
        path = tmp_path / f"a.{kind}"
        path.write_bytes(content)
        found, reason = read(path)
        assert 0 < len(found) < N and path.name in reason


def test_a_cut_video_is_one_that_is_skipped_and_counted(complete, tmp_path, monkeypatch, capsys):
    path = tmp_path / "belt.mkv"
    path.write_bytes(complete["mkv"].read_bytes()[:-40_000])

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["alocc", "inspect", str(path), *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code or 0, *capsys.readouterr()

    code, out, _ = run("--json")
    found = json.loads(out)
    assert code == 0 and 0 < found["n_images"] < N
    (skipped,) = found["skipped"]
    assert skipped["name"] == str(path) and "belt.mkv ends at 0:00:0" in skipped["reason"]
    code, _, err = run("--strict")
    assert code == 2 and "ends at" in err and "--strict" in err

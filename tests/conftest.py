"""Fixtures that several test files share."""

import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from alocc.data.mnist import CONTENT_SHA256, _on_disk

settings.register_profile("alocc", deadline=None, derandomize=True)  # the same examples on a busy machine too
settings.load_profile("alocc")

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
).split()
SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_collection_modifyitems(config, items):
    """Among several processes, files with slow tests come first, lest one has them left when the others have ended."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _data_folder():
    """Find the full MNIST beside the checkout, unless the environment names another place."""
    with pytest.MonkeyPatch.context() as patch:
        if "ALOCC_DATA" not in os.environ and (SHARED_DATA / "mnist").is_dir():
            patch.setenv("ALOCC_DATA", str(SHARED_DATA.resolve()))
        yield


@pytest.fixture(scope="session")
def traced_once():
    """A context in which a detector that is exported several times with the same options is traced once."""

    @contextmanager
    def context():
        from alocc.export import graph  # which needs onnx

        build, made = graph.build, {}

        def once(scorer):
            asked = (scorer.held_out.numpy().tobytes(), scorer.layout, scorer.any_size, scorer.maps)
            model = made.setdefault(asked, None) or build(scorer)
            made[asked] = model
            again = type(model)()
            again.CopyFrom(model)
            return again

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(graph, "build", once)
            yield

    return context


@pytest.fixture
def full_mnist(_data_folder):
    """The full MNIST training set is on this machine."""
    missing = [name for name in CONTENT_SHA256 if _on_disk(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not on this machine; set ALOCC_DATA to the folder that holds mnist/")


@pytest.fixture
def save_image(tmp_path):
    """Write an array as an image file below a temporary folder; sub-folders are made."""

    def save(array, name, **options):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array)).save(path, **options)
        return path

    return save


PLATE = (130, 170)


@pytest.fixture(scope="session")
def plates():
    """A function that draws n images of noise on a plate with a slot, uint8, (n, 130, 170)."""

    def draw(n, seed):
        rng = np.random.default_rng(seed)
        plate = np.full(PLATE, 120.0)
        plate[30:60, 40:110] = 190
        return (plate + rng.normal(0, 8, (n, *PLATE))).clip(0, 255).astype(np.uint8)

    return draw


@pytest.fixture(scope="session")
def with_pits():
    """A function that gives copies of plates with a dark pit, its middle at row 100, column 124."""

    def pit(images):
        faulty = images.copy()
        faulty[:, 96:104, 120:128] = 20
        return faulty

    return pit


@pytest.fixture(scope="module")
def browser():
    """Chromium, driven; what needs it is skipped where it is missing. Its event loop must not outlive a module."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found or not Path(found).exists():
        pytest.skip("no chromium on this machine; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=found, args=FLAGS)

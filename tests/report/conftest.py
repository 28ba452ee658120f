"""A small trained run, images with hostile names, and a real browser."""

import numpy as np
import pytest
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.report import build_report

HOSTILE = "</script><img src=x onerror=alert(1)>.png"


def disc(rng, square=False):
    """A grey 20×18 picture of a disc or a square, somewhere near the middle."""
    rows, columns = np.mgrid[:20, :18]
    dy, dx = np.abs(rows - 10 - rng.uniform(-2, 2)), np.abs(columns - 9 - rng.uniform(-2, 2))
    inside = np.maximum(dy, dx) < 5 if square else dy**2 + dx**2 < 25
    return (inside * 180 + rng.integers(0, 40, inside.shape)).astype(np.uint8)


@pytest.fixture(scope="session")
def draw_disc():
    return disc


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """100 good parts, 40 bad ones, one broken file, and one whose name would be a script."""
    root = tmp_path_factory.mktemp("parts")
    rng = np.random.default_rng(0)
    for name, count in (("good", 100), ("bad", 40)):
        (root / name).mkdir()
        for i in range(count):
            Image.fromarray(disc(rng, square=name == "bad")).save(root / name / f"{i:03}.png")
    (root / "bad" / "<").mkdir()
    Image.fromarray(255 - disc(rng)).save(root / "bad" / HOSTILE)
    (root / "good" / "broken <b>.png").write_bytes((root / "good" / "000.png").read_bytes()[:60])
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run on other good parts, with 60 held out: p-values are whole 61sts."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("run") / "<run>"
    config = with_settings(
        preset("robust"),
        ["networks.width=4", "training.batch_size=16", "calibration.held_out=0.3", "calibration.alpha=0.05"],
    )
    images = np.stack([disc(rng) for _ in range(200)])
    alocc.train(images, config=config, iterations=30, seed=0, out=folder)
    return folder


@pytest.fixture(scope="session")
def labelled_page(trained, parts, tmp_path_factory):
    return build_report(trained, str(parts), ["good"], None, tmp_path_factory.mktemp("pages") / "labelled.html")


@pytest.fixture(scope="session")
def plain_page(trained, parts, tmp_path_factory):
    """A report without labels."""
    return build_report(trained, str(parts / "bad"), None, None, tmp_path_factory.mktemp("pages") / "plain.html")


@pytest.fixture
def visit(browser):
    """Open a file as a page; complaints and requests to anywhere else end the test."""
    contexts = []

    def visit(path, **options):
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                complaints.append(request.url)
                if ":" in request.url and not request.url.startswith(("file:", "data:", "blob:"))
                else None
            ),
        )
        page.goto(path.as_uri())
        page.complaints = complaints
        return page

    yield visit
    for context in contexts:
        for page in context.pages:
            assert page.complaints == []
        context.close()

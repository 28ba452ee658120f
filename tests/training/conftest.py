"""The command line, and images for it."""

import sys

import numpy as np
import pytest
from PIL import Image

from alocc.cli import main


@pytest.fixture
def alocc(monkeypatch, capsys):
    """Run the command line in this process: its standard error, after a check of its exit code."""

    def run(*words, code=0):
        monkeypatch.setattr(sys, "argv", ["alocc", *map(str, words)])
        capsys.readouterr()
        try:
            main()
            done = 0
        except SystemExit as error:
            done = error.code or 0
        err = capsys.readouterr().err
        assert done == code, err
        return err

    return run


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Twelve images, in a folder."""
    root = tmp_path_factory.mktemp("good")
    for i, image in enumerate(np.random.default_rng(0).integers(0, 200, (12, 16, 16), dtype=np.uint8)):
        Image.fromarray(image).save(root / f"{i:02}.png")
    return root

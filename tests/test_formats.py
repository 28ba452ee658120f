"""Detectors that earlier versions wrote are read, and score as they did then."""

from pathlib import Path

import numpy as np
import pytest

import alocc
from alocc.detector import FORMAT_VERSION, READABLE
from alocc.errors import ArtefactError
from alocc.storage import load_tensors, save_tensors

FILES = Path(__file__).parent / "formats"
"""One file of each format, as that version wrote it: 24 images of 16×16, ``robust`` with networks of width 2."""
RAMP = np.add.outer(np.arange(16), np.arange(16)) * 6
SCORES = {8: (9.120010, 1.945323), 9: (9.120010, 1.945323)}
"""Format → anomaly score of a ramp with a bright diagonal, and mean of its map, as that version computed them."""


def test_every_format_that_can_be_read_has_a_file():
    assert {int(path.stem) for path in FILES.iterdir()} == set(READABLE) == SCORES.keys()


@pytest.mark.parametrize("version", READABLE)
def test_a_file_of_an_earlier_format_scores_as_it_did(version):
    image = (RAMP + 40 * np.eye(16)).clip(0, 255).astype(np.uint8)
    path = FILES / f"{version}.safetensors"
    assert load_tensors(path)[1]["format_version"] == version
    scores = alocc.Detector.load(path).score(image[None], maps=True)
    assert (scores.anomaly_score[0], scores.anomaly_map.mean()) == pytest.approx(SCORES[version], rel=1e-4)
    assert scores.p_value[0] == pytest.approx(1 / 9) and set(scores.parts) == {"d", "mse", "spectrum", "cells"}


@pytest.mark.parametrize("version", [*range(1, min(READABLE)), FORMAT_VERSION + 1, None])
def test_of_any_other_format_the_error_says_what_to_do(version, tmp_path):
    tensors, metadata = load_tensors(FILES / f"{FORMAT_VERSION}.safetensors")
    path = tmp_path / "model.safetensors"
    save_tensors(path, tensors, metadata | {"format_version": version})
    remedy = "upgrade alocc" if version == FORMAT_VERSION + 1 else "train it again"
    with pytest.raises(ArtefactError, match=rf"is of format {version}; this alocc reads formats 8 and 9: {remedy}$"):
        alocc.Detector.load(path)

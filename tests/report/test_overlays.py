"""Pictures of maps: their names, and that none is lost."""

import os

import numpy as np
import pytest
import torch

import alocc
from alocc.config import preset, with_settings
from alocc.data.sources import ImageSet
from alocc.errors import ConfigError
from alocc.report.overlays import LONGEST, overlay, overlay_writer, picture_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "a.png.png"),
        ("/far/away/line 1/left/a.png", "line 1_left_a.png.png"),
        ("line\\left\\a.png", "line_left_a.png.png"),
        ('what?<"x">.png', "what___x__.png.png"),
    ],
)
def test_a_picture_is_called_like_its_image(name, expected):
    assert picture_name(name) == expected


@pytest.mark.parametrize("letter", ["x", "é", "部"])
def test_long_names_keep_their_end(letter):
    name = picture_name(300 * letter + "7.png")
    assert name.endswith(letter + "7.png.png") and len(os.fsencode(name)) <= LONGEST + 4


def test_images_of_one_name_do_not_overwrite_each_other(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, 16, 16), dtype=np.uint8)
    detector = alocc.train(
        images, config=with_settings(preset("robust"), ["networks.width=4", "training.batch_size=8"]), iterations=2
    )
    names = ["1/a/b/c.png", "2/a/b/c.png", "3/a/b/c.png"]
    some = ImageSet(torch.from_numpy(images[:3, None]), names, np.full(3, ""))
    overlay_writer(detector, tmp_path)(some, detector.score(images[:3]))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a_b_c.png-2.png", "a_b_c.png-3.png", "a_b_c.png.png",
    ]  # fmt: skip


def test_a_file_is_no_folder_for_pictures(tmp_path):
    (tmp_path / "maps").write_text("")
    with pytest.raises(ConfigError, match="that is a file; give a folder"):
        overlay_writer(object(), tmp_path / "maps")


def dark(hot):
    """Where the overlay of a map, hot at some places, has its dark edge."""
    picture = overlay(np.full((1, 8, 8), 0.5, np.float32), np.where(hot, 2, 0).astype(np.float32), 1.0, side=8)
    return (picture == (40, 0, 0)).all(2)


def test_the_edge_of_what_stands_out_is_dark_and_the_pictures_border_is_no_edge():
    hot = np.zeros((8, 8), bool)
    hot[2:6, 2:6] = True
    inner = np.zeros((8, 8), bool)
    inner[3:5, 3:5] = True
    np.testing.assert_array_equal(dark(hot), hot & ~inner)
    left = np.zeros((8, 8), bool)
    left[:, :4] = True
    np.testing.assert_array_equal(dark(left), left & (np.arange(8) == 3))
    np.testing.assert_array_equal(dark(left.T), left.T & (np.arange(8) == 3)[:, None])
    assert not dark(np.ones((8, 8), bool)).any()

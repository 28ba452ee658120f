"""Whole images beside tiles, by spots planted in images of 700 pixels."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from typer.testing import CliRunner

from alocc.cli.app import app
from alocc.config import preset, with_settings
from alocc.data.sources import open_source
from alocc.training.tiles import Comparison, compare

SIZE = (256, 700)


def brushed(n, seed=0):
    """Brushed metal: the same everywhere, (n, 256, 700), uint8."""
    rng = np.random.default_rng(seed)
    streaks = gaussian_filter1d(rng.normal(0, 1, (n, *SIZE)), 30, axis=2, mode="wrap")
    image = 0.55 + 0.04 * streaks / streaks.std() + rng.normal(0, 0.012, (n, *SIZE))
    return (image.clip(0, 1) * 255).astype(np.uint8)


def plates(n, seed=0):
    """A plate with edges everywhere, in the same place in each image."""
    rng, y, x = np.random.default_rng(seed), *np.mgrid[: SIZE[0], : SIZE[1]]
    plate, drawn = np.full(SIZE, 0.6), np.random.default_rng(77)
    for _ in range(60):
        middle, sides = drawn.uniform((0, 0), SIZE), drawn.uniform(4, 40, 2)
        plate[(abs(y - middle[0]) < sides[0]) & (abs(x - middle[1]) < sides[1])] = drawn.uniform(0.2, 0.9)
    image = gaussian_filter(plate, 1) + rng.normal(0, 0.015, (n, *SIZE))
    return (image.clip(0, 1) * 255).astype(np.uint8)


def compared(images, *settings):
    config = with_settings(preset("robust"), settings)
    source = open_source(images, "train")
    return compare(source.load(source.infer_format(config.images)), config, source.original_size())


def test_tiles_help_on_a_surface_and_the_same_is_measured_again():
    found = compared(brushed(24))
    assert found.tiles_help and found.n_tiles == 4 and found.spots == (2, 3, 4, 6, 8)
    assert found.tiles[1] > found.whole[1] + 0.1
    assert f"spots of 3 pixels planted in normal images: AUROC {found.whole[1]:.2f} in whole images" in str(found)
    assert "--set images.tile=256" in str(found) and "4 tiles an image, about 4 times as long" in str(found)
    assert compared(brushed(24)) == found


def test_tiles_do_not_help_where_whole_images_find_all_spots():
    found = compared(plates(24))
    assert not found.tiles_help and str(found).endswith("tiles would not find more")


@pytest.mark.parametrize(
    ("whole", "tiles", "helps"),
    [((0.5, 0.7), (0.59, 0.79), False), ((0.5, 0.7), (0.47, 0.81), True), ((0.6, 1.0), (0.9, 0.8), False)],
)
def test_tiles_help_where_they_gain_a_tenth_and_lose_nothing_much(whole, tiles, helps):
    found = Comparison((4, 8), whole, tiles, 25, 8.2)
    assert found.tiles_help == helps
    if whole == (0.6, 1.0):
        assert "spots of 8 pixels planted in normal images: AUROC 1.00 in whole images, 0.80" in str(found)


@pytest.mark.parametrize(
    "settings",
    [
        ["images.tile=64"], ["images.longest=600"], ["images.size=[128,350]"], ["training.contamination=0.1"],
        ["scoring={texture=1.0}"],
    ],
)  # fmt: skip
def test_nothing_is_measured_where_nothing_can_be_chosen(settings):
    assert compared(brushed(20), *settings) is None


def test_nothing_is_measured_on_few_or_small_images():
    assert compared(brushed(15)) is None
    assert compared(brushed(20)[:, :, :660]) is None


def test_inspect_says_it_from_files(tmp_path, save_image, capsys):
    for i, image in enumerate(brushed(20)):
        save_image(image, f"good/{i}.png")
    data = str(tmp_path / "good")

    def said(*arguments):
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == 0, done.output
        return " ".join(done.output.split())

    line = json.loads(CliRunner().invoke(app, ["inspect", data, "--json"]).stdout)["whole_or_tiles"]
    assert line.startswith("spots of ") and "in tiles of 256" in line
    assert line in said("inspect", data)

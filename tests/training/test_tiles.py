"""Whole images beside tiles, by spots planted in images of 700 pixels."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from typer.testing import CliRunner

from alocc.cli.app import app
from alocc.config import preset
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


def compared(images):
    config = preset("robust")
    source = open_source(images, "train")
    return compare(source.load(source.infer_format(config.images)), config, source.original_size())


def test_tiles_help_on_a_surface_and_the_same_is_measured_again():
    found = compared(brushed(24))
    assert found.tiles_help and found.n_tiles == 4 and found.spots == (2, 3, 4, 6, 8)
    assert found.tiles[1] > found.whole[1] + 0.1
    best = max(range(5), key=lambda i: found.tiles[i] - found.whole[i])
    figures = f"AUROC {found.whole[best]:.2f} and {found.tiles[best]:.2f} with spots of {found.spots[best]} pixels"
    assert f"spots planted in normal images, whole and in tiles of 256: {figures}" in str(found)
    assert "--set images.tile=256" in str(found) and "4 tiles an image, about 4 times as long" in str(found)
    assert compared(brushed(24)) == found


def test_tiles_do_not_help_where_whole_images_find_all_spots():
    found = compared(plates(24))
    assert not found.tiles_help and str(found).endswith(": tiles are not clearly better")


@pytest.mark.parametrize(
    ("whole", "tiles", "helps"),
    [((0.5, 0.7), (0.59, 0.79), False), ((0.5, 0.7), (0.47, 0.81), True), ((0.6, 1.0), (0.9, 0.8), False)],
)
def test_tiles_help_where_they_gain_a_tenth_and_lose_nothing_much(whole, tiles, helps):
    found = Comparison((4, 8), whole, tiles, 25, 8.2)
    assert found.tiles_help == helps
    if whole == (0.6, 1.0):
        gain, loss = "AUROC 0.60 and 0.90 with spots of 4 pixels", "AUROC 1.00 and 0.80 with spots of 8 pixels"
        assert str(found).endswith(f"{gain}, but {loss}: tiles are not clearly better")


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

    told = json.loads(CliRunner().invoke(app, ["inspect", data, "--json"]).stdout)["whole_or_tiles"]
    assert told["spots"] == [2, 3, 4, 6, 8] and told["n_tiles"] == 4 and len(told["tiles"]) == 5
    assert "whole and in tiles of 256" in told["advice"] and told["advice"] in said("inspect", data)

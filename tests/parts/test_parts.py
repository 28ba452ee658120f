"""What the parts that ask networks say, by their definitions."""

import pytest
import torch

from alocc.config import NetworksConfig, preset, with_settings
from alocc.data.resizing import ImageFormat
from alocc.networks.architecture import build_networks
from alocc.parts import PARTS
from alocc.parts.discriminator import D as DPart
from alocc.parts.discriminator import p_real
from alocc.parts.part import GRID, View, values_to_grid
from alocc.parts.reconstruction import Mse
from alocc.seeding import generator

FORMAT, CONFIG = ImageFormat(16, 16, 1), preset("robust")


def networks_of(judged, seed=0):
    config = NetworksConfig(width=4, discriminator_input=judged)
    R, D = build_networks(config, 1, (16, 16), generator(seed, "weights"))
    return R.eval(), D.eval()


def images(n=5):
    return torch.rand((n, 1, 16, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("judged", ["reconstruction", "image", "pair"])
def test_d_is_the_negative_logit_of_what_d_judges(judged):
    R, D = networks_of(judged)
    x = images()
    with torch.inference_mode():
        found = DPart(FORMAT, CONFIG).of([D])(View(x, x, [R]))
        seen = {"reconstruction": R(x), "image": x, "pair": torch.cat([x, R(x)], 1)}[judged]
        torch.testing.assert_close(found.image, -D(seen))
        torch.testing.assert_close(found.grid, -values_to_grid(D.logit_map(seen)))
        torch.testing.assert_close(p_real(found.image), torch.sigmoid(D(seen)))


def test_mse_is_the_squared_difference_of_image_and_reconstruction():
    R, _ = networks_of("pair")
    x = images()
    with torch.inference_mode():
        found = Mse(FORMAT, CONFIG)(View(x, x, [R]))
        torch.testing.assert_close(found.image, ((x - R(x)) ** 2).flatten(1).mean(1))
        assert found.grid.shape == (5, GRID, GRID)
        around = ((x - R(x)) ** 2)[:, 0, 6:9, 3:6].mean((1, 2))  # 16 pixels a side: a place is a pixel
        torch.testing.assert_close(found.grid[:, 7, 4], around)


def test_r_is_given_the_noisy_image_and_the_error_is_from_the_clean_one():
    R, D = networks_of("pair")
    x = images()
    x_noisy = (x + 0.3).clamp(0, 1)
    with torch.inference_mode():
        view = View(x, x_noisy, [R])
        torch.testing.assert_close(Mse(FORMAT, CONFIG)(view).image, ((x - R(x_noisy)) ** 2).flatten(1).mean(1))
        torch.testing.assert_close(
            DPart(FORMAT, CONFIG).of([D])(view).image, -D(torch.cat([x, R(x_noisy)], 1)))  # fmt: skip


def test_of_several_networks_it_is_the_mean_each_d_with_its_own_r():
    (R, D), (R2, D2) = networks_of("pair"), networks_of("pair", seed=1)
    x = images()
    with torch.inference_mode():
        both, one, other = View(x, x, [R, R2]), View(x, x, [R]), View(x, x, [R2])
        d = DPart(FORMAT, CONFIG)
        singly = [d.of([D])(one), d.of([D2])(other)]
        found = d.of([D, D2])(both)
        torch.testing.assert_close(found.image, (singly[0].image + singly[1].image) / 2)
        torch.testing.assert_close(found.grid, (singly[0].grid + singly[1].grid) / 2)
        mse = Mse(FORMAT, CONFIG)
        torch.testing.assert_close(mse(both).image, (mse(one).image + mse(other).image) / 2)


def test_r_runs_once_for_all_parts_and_only_if_one_asks():
    asked = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            asked.append(len(x))
            return x

    x, (_, D) = images(), networks_of("pair")
    view = View(x, x, [Counting()])
    assert not asked
    with torch.inference_mode():
        Mse(FORMAT, CONFIG)(view)
        DPart(FORMAT, CONFIG).of([D])(view)
    assert asked == [5]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_gives_what_it_says_that_it_gives(name):
    R, D = networks_of("pair")
    config = with_settings(CONFIG, ["networks.width=4"])
    part = PARTS[name](FORMAT, config)
    if name == "d":
        part.of([D])
    x = images()
    with torch.inference_mode():
        found = part.eval()(View(x, x, [R]))
    assert (found.image is not None) == part.of_images
    assert (found.grid is not None) == part.of_places
    assert found.image is None or found.image.shape == (5,)
    assert found.grid is None or found.grid.shape == (5, GRID, GRID)

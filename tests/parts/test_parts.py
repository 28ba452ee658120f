import numpy as np
import pytest
import torch
from alocc.model.scoring import FLOOR, score_parts, ssim, transformed

from alocc.config import NetworksConfig
from alocc.networks.architecture import Networks, build_networks
from alocc.seeding import generator


def test_ssim_of_an_image_with_itself_is_1_and_symmetric():
    x, y = torch.rand(4, 3, 20, 24), torch.rand(4, 3, 20, 24)
    torch.testing.assert_close(ssim(x, x, 11), torch.ones(4))
    torch.testing.assert_close(ssim(x, y, 11), ssim(y, x, 11))
    assert (ssim(x, y, 11) < 0.3).all()


def test_ssim_of_constant_images_by_hand():
    a, b = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    c1 = 0.01**2  # variances are 0, so only the luminance term is left
    expected = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert float(ssim(a, b, 7)) == pytest.approx(expected, rel=1e-3)


def test_ssim_in_one_window_is_the_formula():
    rng = np.random.default_rng(0)
    x, y = rng.random((7, 7)), rng.random((7, 7))
    g = np.exp(-((np.arange(7) - 3) ** 2) / (2 * 1.5**2))
    w = np.outer(g, g) / np.outer(g, g).sum()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (w * x * x).sum() - mx**2, (w * y * y).sum() - my**2, (w * x * y).sum() - mx * my
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    images = [torch.from_numpy(image)[None, None] for image in (x, y)]
    assert float(ssim(*images, window=7)) == pytest.approx(expected, abs=1e-9)


def test_window_shrinks_to_small_images():
    x = torch.rand(2, 1, 6, 5)
    torch.testing.assert_close(ssim(x, x, 11), torch.ones(2))


def test_parts_are_what_their_names_say():
    R, D = build_networks(NetworksConfig(width=4), 1, (16, 16), generator(0, "weights"))
    R.eval(), D.eval()
    x = torch.rand(5, 1, 16, 16)
    with torch.inference_mode():
        parts = score_parts([Networks(R, D)], None, x, x, ["d_image", "d_reconstruction", "mse", "ssim", "features"])
        torch.testing.assert_close(parts["d_image"], -D(x))
        torch.testing.assert_close(parts["d_reconstruction"], -D(R(x)))
        torch.testing.assert_close(parts["mse"], ((x - R(x)) ** 2).flatten(1).mean(1))
        torch.testing.assert_close(parts["ssim"], 1 - ssim(x, R(x), 11))
        a, b = R.encoder(x).flatten(1), R.encoder(R(x)).flatten(1)
        torch.testing.assert_close(parts["features"], 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)))


def test_errors_are_compared_by_their_logarithm_and_logits_as_they_are():
    values = torch.tensor([0.0, 1.0])
    assert transformed("mse", values).tolist() == pytest.approx([np.log(FLOOR), np.log(1 + FLOOR)], rel=1e-5, abs=1e-6)
    assert transformed("d_pair", values).tolist() == [0.0, 1.0]

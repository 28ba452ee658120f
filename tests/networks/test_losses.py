import math

import pytest
import torch

from alocc.networks.losses import discriminator_loss, reconstructor_loss


def logit(probability):
    return math.log(probability / (1 - probability))


def test_discriminator_loss_by_hand():
    loss = discriminator_loss(torch.tensor([logit(0.8), logit(0.5)]), torch.tensor([logit(0.1)]))
    assert float(loss.real) == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, rel=1e-6)
    assert float(loss.fake) == pytest.approx(-math.log(0.9), rel=1e-5)
    assert float(loss.total) == pytest.approx(float(loss.real + loss.fake))


def test_reconstructor_loss_by_hand():
    x, x_hat = torch.zeros(2, 1, 1, 2), torch.tensor([[[[0.0, 0.2]]], [[[0.4, 0.0]]]])
    loss = reconstructor_loss(torch.tensor([logit(0.25), logit(0.25)]), x, x_hat, mse_weight=0.2)
    assert float(loss.mse) == pytest.approx((0.04 + 0.16) / 4)
    assert float(loss.adversarial) == pytest.approx(-math.log(0.25))
    assert float(loss.total) == pytest.approx(-math.log(0.25) + 0.2 * 0.05)


def test_losses_stay_finite_where_p_real_rounds_to_0_or_1():
    loss = discriminator_loss(torch.tensor([-300.0]), torch.tensor([300.0]))
    assert float(loss.total) == pytest.approx(600.0)

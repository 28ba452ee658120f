import pytest
import torch
import torch.nn.functional as F

from alocc.config import NetworksConfig
from alocc.errors import ConfigError
from alocc.networks.architecture import ENCODERS, build_networks, feature_sizes
from alocc.networks.losses import discriminator_loss
from alocc.seeding import generator

ARTICLE = NetworksConfig(discriminator_logits=2)


def build(networks=ARTICLE, channels=1, size=(28, 28)):
    return build_networks(networks, channels, size, generator(0, "weights"))


def n_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def test_the_articles_networks_have_its_numbers_of_parameters():
    R, D = build()
    assert n_parameters(R) == 201_921
    assert n_parameters(D) == 101_346


def test_the_articles_feature_maps_have_its_sizes():
    assert feature_sizes(ENCODERS["article"], (28, 28)) == [(28, 28), (14, 14), (7, 7), (7, 7), (5, 5)]


@pytest.mark.parametrize("architecture", ["article", "paper"])
@pytest.mark.parametrize("latent_dim", [0, 5])
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (29, 31)), (1, (17, 20)), (3, (32, 12))])
def test_reconstructions_have_the_size_and_range_of_images(architecture, latent_dim, channels, size):
    networks = NetworksConfig(architecture=architecture, width=4, latent_dim=latent_dim)
    R, D = build(networks, channels, size)
    x = torch.rand(3, channels, *size)
    x_hat = R(x)
    assert x_hat.shape == x.shape
    assert x_hat.min() >= 0 and x_hat.max() <= 1
    assert D(x).shape == (3,)


def test_too_small_images_are_refused():
    with pytest.raises(ConfigError, match="too small"):
        build(size=(8, 8))


def test_ds_logit_is_the_mean_of_its_map_and_the_softmax_of_two_classes():
    _, D = build()
    D.eval()
    x = torch.rand(6, 1, 28, 28)
    torch.testing.assert_close(D(x), D.logit_map(x).mean((1, 2)))
    two_logits = D.head(D.encoder(x)).mean((2, 3))  # global average pooling, as in the article
    torch.testing.assert_close(torch.sigmoid(D(x)), two_logits.softmax(1)[:, 1])
    ours = discriminator_loss(D(x[:4]), D(x[4:]))
    real = F.cross_entropy(two_logits[:4], torch.ones(4, dtype=torch.int64))
    fake = F.cross_entropy(two_logits[4:], torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(ours.total, real + fake)


def test_weights_are_lecun_normal_and_leave_the_global_stream_alone():
    state = torch.get_rng_state()
    R, D = build(NetworksConfig(latent_dim=16))
    assert torch.equal(torch.get_rng_state(), state)
    conv = D.encoder.blocks[3][0].weight  # 128 maps of 64 × 3 × 3
    assert float(conv.detach().std()) == pytest.approx((64 * 9) ** -0.5, rel=0.02)
    assert float(R.bottleneck.to_latent.weight.detach().std()) == pytest.approx(3200**-0.5, rel=0.02)
    assert float(R.decoder.to_image.bias.detach().abs().max()) == 0


def test_latent_noise_changes_the_reconstruction_only_if_given():
    R, _ = build(NetworksConfig(width=4, latent_dim=5, latent_noise=0.5))
    R.eval()
    x = torch.rand(2, 1, 28, 28)
    assert torch.equal(R(x), R(x))
    assert not torch.equal(R(x), R(x, torch.ones(2, 5)))

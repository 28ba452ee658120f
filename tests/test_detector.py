from dataclasses import replace

import numpy as np
import pytest
import torch

import alocc
from alocc.config import preset, with_settings
from alocc.data.splits import split_normals
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.storage import load_tensors, save_tensors

SMALL = ["networks.width=4", "training.batch_size=16"]


def images_of(n, seed, size=(16, 16)):
    """Soft blobs of different brightness, near the middle."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    centres = rng.uniform(-2, 2, (n, 2)) + np.array(size) / 2
    distance = (rows - centres[:, :1, None]) ** 2 + (columns - centres[:, 1:, None]) ** 2
    return (rng.uniform(120, 250, (n, 1, 1)) * np.exp(-distance / 20)).astype(np.uint8)


@pytest.fixture(scope="module", params=["robust", "robust calibration.folds=0", "article", "paper"])
def detector(request):
    name, *settings = request.param.split()
    config = with_settings(preset(name), [*SMALL, *settings])
    return alocc.train(images_of(80, 0), config=config, iterations=12)


@pytest.fixture(scope="module")
def fresh():
    return images_of(200, 1)


def test_held_out_scores_are_what_the_detector_gives_the_held_out_images(detector):
    split = split_normals(80, detector.config.calibration, detector.config.seed)
    again = detector.score(images_of(80, 0)[split.held_out.numpy()])
    assert len(detector.held_out_scores) == len(split.held_out)
    if not split.crosses:
        np.testing.assert_array_equal(np.sort(again.anomaly_score), detector.held_out_scores)
    else:  # what is compared was not trained on, so it looks less normal than to the finished detector
        assert again.anomaly_score.mean() < detector.held_out_scores.mean()


def test_several_networks_are_averaged():
    whole = alocc.train(images_of(60, 0), config=with_settings(preset("robust"), SMALL), iterations=8)
    first, second = whole.networks
    assert not torch.equal(first.D.head.weight, second.D.head.weight)
    both, one, other = (
        replace(whole, networks=networks).score(images_of(9, 1)).parts["d_pair"]
        for networks in (whole.networks, [first], [second])
    )
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)


def test_few_images_support_the_alpha_of_all_of_them():
    detector = alocc.train(images_of(99, 0), config=with_settings(preset("robust"), SMALL), iterations=4)
    assert len(detector.held_out_scores) == 99 and detector.alpha == 0.01


def test_scoring_changes_nothing_in_the_detector(detector, fresh):
    R, D = detector.networks[-1]
    before = {name: value.clone() for name, value in R.state_dict().items()}
    detector.score(fresh)
    assert all(torch.equal(value, before[name]) for name, value in R.state_dict().items())
    assert not R.training and not D.training


@pytest.mark.parametrize("size", [1, 7, 64, 65])
def test_a_score_does_not_depend_on_batch_mates(detector, fresh, size):
    whole = detector.score(fresh)
    some = detector.score(fresh[:size])
    np.testing.assert_array_equal(some.anomaly_score, whole.anomaly_score[:size])
    np.testing.assert_array_equal(detector.score(fresh[::-1]).anomaly_score[::-1], whole.anomaly_score)


def test_no_images_give_no_scores(detector):
    scores = detector.score(np.empty((0, 16, 16), np.uint8))
    assert len(scores) == 0 and scores.is_anomaly.dtype == bool


def test_saved_and_loaded_detector_gives_the_same_numbers(detector, fresh, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    loaded = alocc.Detector.load(tmp_path / "d.safetensors")
    for field in ("anomaly_score", "p_value", "is_anomaly", "p_real"):
        np.testing.assert_array_equal(getattr(loaded.score(fresh), field), getattr(detector.score(fresh), field))
    assert loaded.config == detector.config
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "d.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_verdict_is_the_p_value_and_the_threshold_at_once(detector, fresh):
    scores = detector.score(fresh)
    np.testing.assert_array_equal(scores.is_anomaly, scores.p_value <= detector.alpha)
    np.testing.assert_array_equal(scores.is_anomaly, scores.anomaly_score > detector.threshold)


def test_float_images_score_as_their_uint8_twins(detector, fresh):
    from_float = detector.score(fresh / np.float32(255))
    np.testing.assert_allclose(from_float.anomaly_score, detector.score(fresh).anomaly_score, atol=1e-5)


def test_one_image_without_its_first_axis_is_refused_not_taken_apart(fresh):
    colour = alocc.train(
        np.stack([images_of(40, 0)] * 2 + [images_of(40, 1)], -1),
        config=with_settings(preset("robust"), SMALL),
        iterations=2,
    )
    with pytest.raises(DataError, match="one colour image"):
        colour.score(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match="different sizes"):
        colour.score([np.zeros((16, 16, 3), np.uint8), np.zeros((9, 16, 3), np.uint8)])


def test_lower_alpha_flags_no_more_images(detector, fresh):
    flagged = [detector.with_alpha(alpha).score(fresh).is_anomaly.sum() for alpha in (0.5, 0.2, 0.1)]
    assert flagged == sorted(flagged, reverse=True)
    with pytest.raises(ConfigError, match="alpha must be at least"):
        detector.with_alpha(0.001)


def test_images_of_the_training_are_recognised(detector, fresh):
    prepared = torch.from_numpy(images_of(80, 0)[:, None])
    assert detector.was_seen(prepared).all()
    assert not detector.was_seen(torch.from_numpy(fresh[:, None])).any()


def test_colour_images_of_an_odd_size_work():
    images = np.stack([images_of(40, seed, (17, 21)) for seed in range(3)], axis=-1)
    detector = alocc.train(images, config=with_settings(preset("robust"), SMALL), iterations=3)
    assert str(detector.image_format) == "17×21 colour"
    assert np.isfinite(detector.score(images).anomaly_score).all()


def test_what_is_no_detector_is_refused(detector, tmp_path):
    path = tmp_path / "d.safetensors"
    detector.save(path)
    whole = path.read_bytes()
    tensors, metadata = load_tensors(path)
    for damaged in (b"", whole[: len(whole) // 2], b"\x80\x04\x95 a pickle"):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match="damaged"):
            alocc.Detector.load(path)
    save_tensors(path, tensors, {**metadata, "format_version": 99})
    with pytest.raises(ArtefactError, match="newer"):
        alocc.Detector.load(path)
    save_tensors(path, {}, {**metadata})
    with pytest.raises(ArtefactError, match="damaged"):
        alocc.Detector.load(path)
    save_tensors(path, tensors, {"kind": "checkpoint"})
    with pytest.raises(ArtefactError, match="not a detector"):
        alocc.Detector.load(path)

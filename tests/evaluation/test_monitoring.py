"""Drift is seen where there is some, and only there."""

from dataclasses import replace

import numpy as np
import pytest

import alocc
from alocc.config import preset, with_settings
from alocc.data.images import prepare_batch
from alocc.errors import ConfigError, DataError
from alocc.evaluation.monitoring import monitor
from alocc.report.figures import drift_figure

SMALL = ["networks.width=4", "training.batch_size=16"]


def images(n, seed, shade=100):
    return np.clip(np.random.default_rng(seed).normal(shade, 20, (n, 16, 16)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def detector():
    return alocc.train(images(300, 0), config=with_settings(preset("robust"), SMALL), iterations=10)


def look(detector, stream, window=50):
    return monitor(detector, [str(i) for i in range(len(stream))], detector.score(stream), window)


def test_the_same_kind_of_images_is_no_drift(detector):
    drift = look(detector, images(230, 1))
    assert not drift.has_drifted
    assert [one.n_images for one in drift.windows] == [50, 50, 50, 50, 30]
    assert (drift.windows[1].first, drift.windows[1].last) == ("50", "99")


def test_a_change_is_seen_in_its_window(detector):
    drift = look(detector, np.concatenate([images(100, 1), images(100, 2, shade=115)]))
    assert drift.has_drifted
    assert min(one.p_same for one in drift.windows[:2]) > 0.001 > max(one.p_same for one in drift.windows[2:])
    assert drift.windows[3].mean_p_value < 0.2
    assert drift_figure(drift).startswith("<svg")


def test_too_few_images_are_refused(detector):
    with pytest.raises(DataError, match="9 images are too few"):
        look(detector, images(9, 1))


def test_recalibrating_on_what_has_changed_makes_it_normal(detector):
    darker = images(400, 3, shade=110)
    x = prepare_batch(darker[:200], detector.image_format)
    again = detector.recalibrated(x, 0.05)
    assert look(detector, darker[200:]).has_drifted and not look(again, darker[200:]).has_drifted
    asked = replace(detector, config=with_settings(detector.config, ["calibration.alpha=0.2"]))
    assert asked.recalibrated(x).alpha == 0.2 and detector.recalibrated(x).alpha == 0.01
    assert again.alpha == 0.05 and len(again.held_out_scores) == 200
    assert (again.score(darker[200:]).is_anomaly.mean() < 0.12) and again.was_seen(x).all()
    assert np.array_equal(again.score(darker[:9]).anomaly_score, detector.score(darker[:9]).anomaly_score)
    with pytest.raises(ConfigError, match="alpha must be at least"):
        detector.recalibrated(x[:20], 0.01)
    with pytest.raises(DataError, match="no normal images"):
        detector.recalibrated(x[:0])

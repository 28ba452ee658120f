"""Drift is seen where there is some, and only there."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstwo

import alocc
from alocc.calibration import Calibration
from alocc.config import preset, with_settings
from alocc.data.appearance import appearance
from alocc.data.images import prepare_batch
from alocc.data.sources import ImageSet
from alocc.errors import ConfigError, DataError
from alocc.evaluation import monitoring
from alocc.evaluation.monitoring import Looks, monitor, more_called, same_source
from alocc.report.figures import drift_figure
from alocc.scores import Scores

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


class Fixed:
    """Held-out scores 1, 2, … n, and the notes of a training without folds."""

    def __init__(self, n, **notes):
        self.held_out_scores, self.alpha, self.training = np.arange(1.0, n + 1), 0.05, notes


def scores_of(values, detector):
    values = np.asarray(values, dtype=float)
    p_value = Calibration.of(detector.held_out_scores).p_values(values)
    return Scores(values, p_value, p_value <= detector.alpha, {}, None, detector.alpha)


@pytest.mark.parametrize(
    ("n", "sizes"), [(210, [50, 50, 50, 60]), (224, [50, 50, 50, 74]), (226, [50, 50, 50, 50, 26]), (12, [12])]
)
def test_what_is_left_belongs_to_the_last_window_unless_it_is_more_than_half_a_window(n, sizes):
    detector = Fixed(99)
    drift = monitor(detector, list(map(str, range(n))), scores_of(np.arange(n) % 99, detector), 50)
    assert [one.n_images for one in drift.windows] == sizes
    assert drift.windows[-1].last == str(n - 1)


def test_figures_of_a_window_by_hand():
    detector = Fixed(99)
    values = [99.5] * 3 + [95.5] + [50.5] * 6  # p = 1, 5 and 50 of 100
    window = monitor(detector, list("abcdefghij"), scores_of(values, detector)).windows[0]
    assert window.share_of_anomalies == 0.4  # p_value <= alpha 0.05, so those at equality too
    assert window.mean_p_value == pytest.approx((3 * 0.01 + 0.05 + 6 * 0.5) / 10)
    assert window.p_same == pytest.approx(ks_2samp(values, detector.held_out_scores).pvalue)


def windows_with(p_same, n_windows):
    """A stream whose first window has about this p-value, the others none to speak of."""
    detector = Fixed(999)
    calm = np.linspace(1, 999, 50)
    found = [
        (abs(np.log(ks_2samp(calm + by, detector.held_out_scores).pvalue / p_same)), by) for by in range(0, 600, 2)
    ]
    values = np.concatenate([calm + min(found)[1], *[calm] * (n_windows - 1)])
    return monitor(detector, list(map(str, range(len(values)))), scores_of(values, detector), 50)


@pytest.mark.parametrize(
    ("p_same", "n_windows", "has_drifted"),
    [(0.01, 1, False), (0.001, 1, False), (0.0002, 1, True), (0.0002, 4, False), (0.00005, 4, True)],
)
def test_the_alarm_is_at_half_a_thousandth_over_all_windows_together(p_same, n_windows, has_drifted, monkeypatch):
    monkeypatch.setattr(monitoring, "more_called", lambda *given: 1.0)
    drift = windows_with(p_same, n_windows)
    assert len(drift.windows) == n_windows and drift.windows[0].p_same == pytest.approx(p_same, rel=0.25)
    assert drift.has_drifted == has_drifted


def test_as_many_calls_are_a_change_though_the_other_images_look_as_usual():
    """One of 99 held-out images may be called at .01; that the five highest of 199 are all new has a chance by hand."""
    detector = Fixed(99)
    detector.alpha = 0.01
    by_hand = np.prod([(100 - i) / (199 - i) for i in range(5)])
    assert more_called(detector, 5, 100) == pytest.approx(by_hand) and more_called(detector, 0, 100) == 1
    usual = np.linspace(1, 98, 85)
    names = list(map(str, range(100)))
    few, many = (scores_of(np.r_[usual, np.full(n, 1e6), np.full(15 - n, 50.0)], detector) for n in (3, 15))
    assert not monitor(detector, names, few).has_drifted
    drift = monitor(detector, names, many)
    assert drift.has_drifted and drift.windows[0].p_same > 0.001 and "more unusual images" in drift.verdict


def test_what_folds_do_to_scores_by_themselves_is_no_drift():
    """A distance of 5 % between the distributions of 2,000 new scores and 400 held-out ones may be the folds' own."""
    with_folds, without, again = (
        Fixed(400, n_folds=2),
        Fixed(400, n_folds=0),
        Fixed(400, n_folds=2, recalibrated_on="x"),
    )
    values = np.concatenate([np.linspace(1, 400, 1_900), np.full(100, 500.0)])
    assert same_source(without, values) == ks_2samp(values, without.held_out_scores).pvalue < 0.5
    assert same_source(with_folds, values) == 1 and same_source(again, values) == same_source(without, values)
    far = values + 60  # 15 % more
    d, n = ks_2samp(far, with_folds.held_out_scores).statistic, round(2_000 * 400 / 2_400)
    assert same_source(with_folds, far) == pytest.approx(kstwo.sf(d - 0.06, n)) and same_source(with_folds, far) < 0.001


def test_rows_have_a_header_and_a_row_a_window(detector):
    drift = look(detector, images(100, 1))
    header, *rows = drift.as_rows()
    assert header == ("from", "to", "images", "mean p-value", "share of p ≤ 0.01", "p of no change")
    assert [row[:3] for row in rows] == [("0", "49", "50"), ("50", "99", "50")]


def test_the_look_of_an_image_by_hand():
    """Half of it 50, half of it 150, side by side: mean 100, deviation 50, one step of 100 among 15 in each row."""
    image = np.full((1, 1, 16, 16), 50, np.uint8)
    image[..., 8:] = 150
    brightness, contrast, sharpness, colour = appearance(torch.from_numpy(image))[0]
    assert brightness == pytest.approx(100) and colour == 0
    assert contrast == pytest.approx(50, rel=0.01)
    assert sharpness == pytest.approx(np.sqrt(100**2 / 15 / 2) / contrast, rel=1e-4)


def by_look(detector, stream, window=50):
    looks, x = Looks(), prepare_batch(stream, detector.image_format)
    looks.note(ImageSet(x, [], np.empty(0), sizes=[(16, 16)] * len(x)), None)
    return monitor(detector, [str(i) for i in range(len(x))], detector.score(stream), window, looks)


def test_what_has_changed_is_named(detector):
    dark = by_look(detector, np.concatenate([images(100, 1), images(100, 2, shade=70)]))
    assert dark.has_drifted and len(dark.changes) == 1
    assert dark.changes[0].startswith("brightness 99.5 → 69.") and dark.changes[0].endswith("deviations darker)")
    assert dark.changes[0] in dark.verdict
    flat = by_look(detector, (images(100, 3) // 4 + 75).astype(np.uint8))
    assert [change.split()[0] for change in flat.changes] == ["contrast"] and "lower" in flat.changes[0]
    assert not by_look(detector, images(100, 5)).changes


def test_more_anomalies_with_everything_else_alike_are_called_that(detector):
    spotted = images(100, 4)
    spotted[:, 4:9, 4:9] = np.sort(spotted[:, 4:9, 4:9].reshape(100, -1), 1).reshape(100, 5, 5)  # the same grey levels
    drift = by_look(detector, spotted)
    if drift.has_drifted:
        assert "more unusual images" in drift.verdict and "as usual" in drift.verdict


def test_the_chart_of_one_window_has_an_axis_that_fits(detector):
    drift = look(detector, images(40, 6))
    svg = drift_figure(drift)
    assert svg.startswith("<svg") and "expected" in svg


def test_an_obvious_change_of_light_is_one_whatever_the_scores_say(detector, monkeypatch):
    monkeypatch.setattr("alocc.evaluation.monitoring.same_source", lambda *scores: 0.5)  # as scores that see no light
    dark = by_look(detector, images(100, 2, shade=70))
    assert dark.has_drifted and dark.windows[0].has_drifted and "darker" in dark.verdict
    assert not by_look(detector, images(100, 1)).has_drifted

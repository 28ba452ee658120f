import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alocc.calibration import Calibration
from alocc.report.page_data import alpha_steps


@given(st.integers(1, 300), st.lists(st.floats(-5, 5), min_size=1, max_size=20))
def test_the_division_of_the_page_gives_the_detectors_p_value(n, scores):
    held_out = np.sort(np.round(np.random.default_rng(n).normal(size=n), 1))  # with ties
    calibration, images = Calibration.of(held_out), np.array([*scores, *held_out])
    k, p_value = calibration.count_at_least(images), calibration.p_values(images)
    assert ((1 + k) / (n + 1) == p_value).all()
    assert (calibration.exact(p_value.astype(np.float32)) == p_value).all()
    assert k[: len(scores)].tolist() == [int((held_out >= score).sum()) for score in scores]


@pytest.mark.parametrize(("n", "alpha"), [(99, 0.01), (674, 0.01), (3, 0.25), (1, 0.5), (50, 0.7), (9, 0.123456)])
def test_slider_goes_from_the_smallest_alpha_up_and_has_the_detectors(n, alpha):
    steps = alpha_steps(n, alpha)
    assert steps[0] == 1 / (n + 1) and alpha in steps and steps[-1] < 1
    assert steps == sorted(set(steps)) and steps[-1] >= 0.5

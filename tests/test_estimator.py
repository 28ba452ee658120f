import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from alocc import ALOCC
from alocc.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = (RNG.normal(120, 30, (60, 16, 16)).clip(0, 255)).astype(np.uint8)
NEW = np.concatenate([IMAGES[:20], RNG.integers(0, 256, (20, 16, 16), dtype=np.uint8)])


def small(**parameters):
    settings = {"networks.width": 4, "training.batch_size": 16}
    return ALOCC(iterations=8, settings=settings, **parameters)


@pytest.fixture(scope="module")
def fitted():
    return small(alpha=0.1).fit(IMAGES)


def test_decision_is_score_minus_offset_and_negative_for_outliers(fitted):
    decision = fitted.decision_function(NEW)
    np.testing.assert_array_equal(decision, fitted.score_samples(NEW) - fitted.offset_)
    predicted = fitted.predict(NEW)
    np.testing.assert_array_equal(predicted, np.where(decision < 0, -1, 1))
    assert predicted.dtype.kind == "i" and decision.dtype == np.float64
    np.testing.assert_array_equal(predicted == -1, fitted.detector_.score(NEW).is_anomaly)


def test_fit_predict_finds_both_kinds_in_the_training_images():
    odd = np.zeros((16, 16), np.uint8)
    predicted = small(alpha=0.4).fit_predict([*IMAGES, odd])
    assert set(predicted) == {-1, 1} and predicted[-1] == -1
    # each image is judged by what it did not train, so alpha is the share of those called
    assert (predicted == -1).mean() == pytest.approx(0.4, abs=0.03)


def test_clone_and_parameters_round_trip():
    model = small(alpha=0.2, random_state=3, preset="article")
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert copy.set_params(alpha=0.3).alpha == 0.3
    with pytest.raises(ValueError, match="bogus"):
        copy.set_params(bogus=1)


def test_random_state_decides_everything():
    first, again, other = (small(random_state=seed).fit(IMAGES).score_samples(NEW) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_pipeline_and_grid_search_work():
    pipeline = make_pipeline(FunctionTransformer(lambda images: 255 - images), small())
    assert set(pipeline.fit(IMAGES).predict(NEW)) <= {-1, 1}
    search = GridSearchCV(
        small(), {"alpha": [0.1, 0.3]}, cv=2, scoring=lambda model, X, y=None: (model.predict(X) == 1).mean()
    )
    search.fit(IMAGES)
    assert search.best_params_["alpha"] in (0.1, 0.3)


def test_lists_and_read_only_arrays_are_taken(fitted):
    frozen = NEW.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fitted.score_samples(frozen), fitted.score_samples(list(NEW)))


@pytest.mark.parametrize(
    "images", [np.zeros((60, 9), np.uint8), np.zeros((60, 8, 8, 2), np.uint8), np.full((60, 8, 8), 2.0), np.zeros(5)]
)
def test_what_are_no_images_is_a_value_error(images):
    with pytest.raises(DataError):
        small().fit(images)


def test_scoring_before_fitting_is_refused():
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        small().predict(NEW)

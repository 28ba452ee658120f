import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from alocc import ALOCC
from alocc.errors import ConfigError, DataError

RNG = np.random.default_rng(0)
IMAGES = (RNG.normal(120, 30, (60, 16, 16)).clip(0, 255)).astype(np.uint8)
NEW = np.concatenate([IMAGES[:20], RNG.integers(0, 256, (20, 16, 16), dtype=np.uint8)])


SETTINGS = {"networks.width": 4, "training.batch_size": 16}


def small(settings=(), **parameters):
    return ALOCC(**{"iterations": 8, "settings": SETTINGS | dict(settings), **parameters})


def smallest(settings=(), **parameters):
    """The quickest to fit: one pair of networks, two updates."""
    return small(settings, **{"preset": "article", "iterations": 2, **parameters})


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
    first, again, other = (smallest(random_state=seed).fit(IMAGES).score_samples(NEW) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", [3, np.int64(3), np.uint8(3)])
def test_a_seed_is_the_configs(seed):
    assert smallest(random_state=seed).fit(IMAGES).detector_.config.seed == 3


def test_no_seed_is_that_of_the_settings_or_zero():
    assert smallest().fit(IMAGES).detector_.config.seed == 0
    assert smallest({"seed": 7}).fit(IMAGES).detector_.config.seed == 7


def test_a_random_state_gives_the_seeds_of_several_fits():
    seeds = np.random.RandomState(0).randint(2**31, size=2).tolist()
    model = smallest(random_state=np.random.RandomState(0))
    assert [model.fit(IMAGES).detector_.config.seed for _ in range(2)] == seeds
    again = clone(smallest(random_state=np.random.RandomState(0)))
    assert again.fit(IMAGES).detector_.config.seed == seeds[0]


@pytest.mark.parametrize("seed", ["1", 1.5, -1, True, np.random.default_rng(0)])
def test_what_is_no_seed_is_a_value_error(seed):
    with pytest.raises(
        ValueError,
        match=r"cannot be used to seed|seed.* at least 0|seed must be a whole number, got True",
    ):
        smallest(random_state=seed).fit(IMAGES)


def test_settings_are_values_of_python_or_numpy():
    settings = {
        "images.size": np.array([16, 20]),
        "networks": {"width": np.int64(8)},
        "networks.discriminator_logits": np.uint8(1),
        "corruption.sigma": np.array(0.25),
        "corruption.at_scoring": np.False_,
        "training.adversarial.adam.betas": (np.float32(0.5), 0.75),
        "training.old_is_gold": None,
        "scoring": {"mse": np.float32(0.5)},
    }
    before = {key: value for key, value in settings.items() if not isinstance(value, np.ndarray)}
    config = ALOCC(preset="article", iterations=2, settings=settings).fit(IMAGES).detector_.config
    assert config.images.size == (16, 20) and config.networks.width == 8 and config.networks.discriminator_logits == 1
    assert config.corruption.sigma == 0.25 and config.corruption.at_scoring is False
    assert config.training.adversarial.adam.betas == (0.5, 0.75)
    assert config.training.adversarial.adam.learning_rate == 2e-4  # the preset's
    assert config.training.old_is_gold is None and config.scoring == {"mse": 0.5}
    assert before.items() <= settings.items()


@pytest.mark.parametrize("turn", [1, -1])
def test_a_section_and_one_of_its_keys_go_together_in_any_order(turn):
    settings = [("networks", {"width": 8}), ("networks.latent_dim", 5)]
    config = ALOCC(preset="article", iterations=2, settings=dict(settings[::turn])).fit(IMAGES).detector_.config
    assert (config.networks.width, config.networks.latent_dim) == (8, 5)


def test_none_switches_a_phase_off():
    off = {"training": {"discrimination": None, "places": None}, "scoring": {"spectrum": 1.0}, "maps": {"mse": 1.0}}
    config = small(off, iterations=2).fit(IMAGES).detector_.config
    assert config.training.discrimination is None and config.training.places is None
    assert config.training.reconstruction.iterations == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"networks.widht": 4}, 'settings: there is no key networks.widht; did you mean "width"'),
        (
            {"training": None, "training.batch_size": 4},
            "settings: training.batch_size is in training, which was set to",
        ),
        ({"images.size": np.array([16.5, 16])}, r"settings: images\.size"),
        ({"training.discrimination": None}, r"settings: training: training\.places\.iterations must be given"),
        ({"training": {"discrimination": None, "places": None}}, "part d needs a trained D"),
        ({"scoring": {"d_pair": 1.0}}, 'scoring: there is no part "d_pair"'),
        ({"networks.discriminator_input": "single"}, r"settings: networks\.discriminator_input"),
        ({1: 2}, "settings: there is no key 1"),
    ],
)
def test_a_wrong_setting_is_named_as_what_it_is(settings, message):
    with pytest.raises(ConfigError, match=message):
        ALOCC(settings=settings).fit(IMAGES)


def test_a_pipeline_gives_what_its_steps_give():
    pipeline = make_pipeline(FunctionTransformer(lambda images: 255 - images), smallest()).fit(IMAGES)
    alone = smallest().fit(255 - IMAGES)
    np.testing.assert_array_equal(pipeline.score_samples(NEW), alone.score_samples(255 - NEW))
    assert set(pipeline.predict(NEW)) == {-1, 1}


def test_grid_search_fits_each_parameter_and_keeps_the_best():
    """Of normal images alone the smallest alpha calls the fewest outliers."""
    search = GridSearchCV(
        smallest(), {"alpha": np.array([0.5, 0.2, 0.3]), "iterations": np.arange(2, 3)}, cv=2,
        scoring=lambda model, X, y=None: -model.detector_.alpha,
    )  # fmt: skip
    search.fit(IMAGES)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], [-0.5, -0.2, -0.3])
    assert search.best_params_ == {"alpha": 0.2, "iterations": 2}
    assert search.best_estimator_.detector_.alpha == 0.2


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_an_image_at_the_threshold_is_normal(alpha):
    """The threshold is the score of a held-out image; with one pair of networks that image scores the same again."""
    model = smallest({"calibration.folds": 0}, alpha=alpha).fit(IMAGES)
    decision = model.decision_function(IMAGES)
    assert (decision == 0).sum() == 1
    assert model.predict(IMAGES)[decision == 0] == 1
    np.testing.assert_array_equal(model.predict(IMAGES) == -1, model.detector_.score(IMAGES).is_anomaly)


def test_of_the_training_images_as_many_are_outliers_as_alpha_says():
    """Of 60, p = (1 + #{scores ≥ s}) / 61 is at most .1 for the five highest; the sixth is the threshold: normal."""
    assert (small(alpha=0.1).fit_predict(IMAGES) == -1).sum() == 5


def test_lists_and_read_only_arrays_are_taken(fitted):
    frozen = NEW.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(fitted.score_samples(frozen), fitted.score_samples(list(NEW)))


def test_memory_maps_that_may_not_be_written_are_taken(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    model = smallest().fit(mapped)
    np.testing.assert_array_equal(model.score_samples(mapped), smallest().fit(list(IMAGES)).score_samples(IMAGES))


def test_nested_lists_are_taken():
    floats = (IMAGES / 255).astype(np.float32)
    model = smallest().fit(floats.tolist())
    np.testing.assert_array_equal(model.score_samples(floats.tolist()), smallest().fit(floats).score_samples(floats))


def test_fitting_returns_the_estimator_changes_no_argument_and_ignores_labels(fitted):
    images, settings = IMAGES.copy(), dict(SETTINGS)
    model = smallest()
    before = model.get_params()
    assert model.fit(images, y=np.arange(60)) is model
    np.testing.assert_array_equal(images, IMAGES)
    assert model.get_params() == before and settings == SETTINGS
    np.testing.assert_array_equal(model.score_samples(NEW), smallest().fit(IMAGES).score_samples(NEW))


def test_an_image_scores_alike_alone_and_in_any_order(fitted):
    together = fitted.score_samples(NEW)
    assert together.dtype == np.float64 and together.shape == (40,)
    np.testing.assert_array_equal(fitted.score_samples(NEW[::-1])[::-1], together)
    np.testing.assert_array_equal(fitted.score_samples(NEW[7:8]), together[7:8])


@pytest.mark.parametrize("method", ["fit", "score_samples", "decision_function", "predict"])
@pytest.mark.parametrize("images", [[IMAGES[0], IMAGES[0, :8]], [["a", "b"]], 5, None, IMAGES[:, :, 0], IMAGES / 1.0])
def test_what_are_no_images_is_a_value_error_everywhere(fitted, method, images):
    with pytest.raises(ValueError, match=r"."):
        getattr(smallest() if method == "fit" else fitted, method)(images)


def test_images_of_different_sizes_are_named_as_such():
    with pytest.raises(DataError, match="images of different sizes are not an array"):
        smallest().fit([np.zeros((8, 8)), np.zeros((8, 9))])


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

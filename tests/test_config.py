"""Config: TOML there and back, settings on top, and what a wrong one is told."""

from typing import get_args

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alocc.config import (
    NUISANCES,
    PHASES,
    PRESETS,
    AugmentationConfig,
    Config,
    NegativeKind,
    TrainingConfig,
    dump_config,
    load_config,
    preset,
    with_ignored,
    with_iterations,
    with_settings,
    with_values,
)
from alocc.errors import ConfigError
from alocc.parts import check_parts
from alocc.synthesis.negatives import NEGATIVES
from alocc.training.phases import TRAINED

ARTICLES_ADAM = "{learning_rate = 2e-4, betas = [0.5, 0.9]}"
CONFIGS = {
    **PRESETS,
    "phase switched off": with_settings(
        PRESETS["robust"],
        [
            "scoring={texture = 1.0, mse = 0.5}",
            "maps={cells = 2.0}",
            "training.discrimination=none",
            "training.places=none",
        ],
    ),
    "phase switched on": with_settings(
        PRESETS["article"], [f"training.reconstruction={{iterations = 7, adam = {ARTICLES_ADAM}}}"]
    ),
    "all choices made": with_settings(
        PRESETS["paper"], ["images.size=[20, 30]", "images.channels=3", "calibration.alpha=0.02", "seed=9"]
    ),
}


@pytest.fixture
def write(tmp_path):
    def write_toml(text):
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_toml


def complaint(config, *given):
    with pytest.raises(ConfigError) as raised:
        with_settings(config, given)
    return str(raised.value)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_toml_of_a_config_gives_the_same_config(config, write):
    assert load_config(write(dump_config(config))) == config


def test_a_review_alpha_is_written_only_where_there_is_one(write):
    """So that the files of trainings without it are what they were before there was such a thing."""
    robust = PRESETS["robust"]
    assert robust.calibration.review_alpha is None and "review_alpha" not in dump_config(robust)
    assert "review_alpha" not in robust.model_dump(mode="json")["calibration"]
    with_both = with_settings(robust, ["calibration.alpha=0.02", "calibration.review_alpha=0.05"])
    assert "review_alpha = 0.05" in dump_config(with_both) and load_config(write(dump_config(with_both))) == with_both
    assert with_settings(with_both, ["calibration.review_alpha=none"]).calibration.review_alpha is None
    assert with_settings(with_both, ["calibration.review_alpha=0.02"]).calibration.review_alpha == 0.02


def test_a_review_alpha_below_alpha_is_refused():
    config = with_settings(PRESETS["robust"], ["calibration.alpha=0.05"])
    said = complaint(config, "calibration.review_alpha=0.01")
    assert said == "--set: calibration.review_alpha: must be at least calibration.alpha, 0.05, got 0.01"
    assert "less than 1" in complaint(config, "calibration.review_alpha=1")
    assert "did you mean" in complaint(config, "calibration.review=0.1")


def test_nothing_is_written_as_a_word():
    toml = dump_config(CONFIGS["phase switched off"])
    assert 'discrimination = "none"' in toml
    assert 'adversarial = "none"' in toml
    assert 'size = "none"' in toml


@settings(max_examples=30)
@given(st.floats(1e-12, 1e6), st.integers(0, 2**60))
def test_numbers_survive_toml_exactly(learning_rate, seed):
    given_config = with_values(
        preset("robust"),
        {"seed": seed, "training": {"reconstruction": {"adam": {"learning_rate": learning_rate}}}},
        source="test",
    )
    again = with_settings(preset("robust"), [f"seed={seed}"])
    line = next(line for line in dump_config(given_config).splitlines() if line.startswith("learning_rate"))
    again = with_settings(again, [f"training.reconstruction.adam.learning_rate={line.partition('= ')[2]}"])
    assert again == given_config


def test_default_preset_is_robust(write):
    assert load_config(write("seed = 3")) == with_settings(preset("robust"), ["seed=3"])


def test_few_keys_go_on_top_of_the_preset_that_the_file_names(write):
    config = load_config(write('preset = "article"\n[training.adversarial]\niterations = 5'))
    assert config.training.adversarial.iterations == 5
    assert config.training.adversarial.mse_weight == 0.2
    assert config.networks == PRESETS["article"].networks


def test_article_preset_is_the_articles():
    article = preset("article")
    phase = article.training.adversarial
    assert article.corruption.sigma == 0.155
    assert article.training.batch_size == 128
    assert (phase.iterations, phase.discriminator_updates, phase.mse_weight) == (100_000, 1, 0.2)
    assert (phase.adam.learning_rate, phase.adam.betas, phase.adam.weight_decay) == (2e-4, (0.5, 0.9), 1e-5)
    assert article.corruption.at_scoring and article.networks.discriminator_input == "reconstruction"
    assert article.scoring == {"d": 1.0}
    assert article.training.reconstruction is None and article.training.discrimination is None


def test_settings_take_toml_values_and_bare_words():
    config = with_settings(
        preset("robust"),
        ["training.precision=bf16-mixed", 'networks.architecture = "paper"', "images.size=[32, 48]", "seed=7"],
    )
    assert config.training.precision == "bf16-mixed"
    assert config.networks.architecture == "paper"
    assert config.images.size == (32, 48)
    assert config.seed == 7
    assert config.training.reconstruction == PRESETS["robust"].training.reconstruction


def test_later_settings_win_and_presets_stay_as_they_are():
    before = PRESETS["robust"].model_copy(deep=True)
    assert with_settings(preset("robust"), ["seed=1", "seed=2"]).seed == 2
    assert PRESETS["robust"] == before
    with pytest.raises(pydantic.ValidationError):
        PRESETS["robust"].seed = 1


def test_parts_of_a_score_and_of_a_map_are_replaced_as_one():
    config = with_settings(preset("robust"), ["scoring={mse = 1.0}", "maps.cells=3.0"])
    assert config.scoring == {"mse": 1.0} and config.maps == {"cells": 3.0}


@pytest.mark.parametrize(
    ("name", "meant"), [("robst", 'did you mean "robust"?'), ("Article", 'did you mean "article"?'), ("xyz", "")]
)
def test_unknown_preset_is_told_the_nearest(name, meant):
    with pytest.raises(ConfigError) as raised:
        preset(name)
    assert meant in str(raised.value)
    assert ("did you mean" in str(raised.value)) == bool(meant)
    assert "presets are: article, paper, ognet, robust, features" in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "key", "meant"),
    [
        ("sed=1", "sed", "seed"),
        ("training.batch_sise=3", "training.batch_sise", "batch_size"),
        ("training.reconstruction.iteration=3", "training.reconstruction.iteration", "iterations"),
        ("training.reconstruction.adam.lerning_rate=1", "training.reconstruction.adam.lerning_rate", "learning_rate"),
        ("calibration.alfa=0.1", "calibration.alfa", "alpha"),
    ],
)
def test_wrong_key_is_told_the_nearest(setting, key, meant):
    told = complaint(preset("robust"), setting)
    assert f"there is no key {key};" in told
    assert f'did you mean "{meant}"?' in told
    assert "keys here: " in told


def test_wrong_key_in_a_file_names_the_file(write):
    path = write("[corruption]\nsigmma = 0.1")
    with pytest.raises(ConfigError, match=r'config\.toml: there is no key corruption\.sigmma; did you mean "sigma"'):
        load_config(path)


def test_all_problems_are_told_at_once(write):
    with pytest.raises(ConfigError) as raised:
        load_config(write("seed = -1\n[networks]\nwidht = 3\nlatent_dim = 1.5"))
    for key in ("seed", "networks.widht", "networks.latent_dim"):
        assert key in str(raised.value)


@pytest.mark.parametrize(
    ("setting", "parts"),
    [
        ("networks.width=0", ["networks.width", "greater than 0", "0"]),
        ("calibration.alpha=1.0", ["calibration.alpha", "less than 1", "1.0"]),
        ("training.batch_size=many", ["training.batch_size", "whole number", "'many'"]),
        ("images.channels=2", ["images.channels", "1 or 3", "2"]),
        ("corruption.sigma=nan", ["corruption.sigma", "nan"]),
        ("networks.discriminator_input=single", ["networks.discriminator_input", "'image' or 'pair'", "'single'"]),
        ("scoring={}", ["scoring", "at least 1"]),
        ("scoring.mse=0.0", ["scoring.mse", "greater than 0"]),
        ("maps={}", ["maps", "at least 1"]),
        ("maps.cells=-1.0", ["maps.cells", "greater than 0"]),
        ("seed.x=1", ["seed", "whole number"]),
        ("training=none", ["training"]),
    ],
)
def test_wrong_value_is_told_with_its_key(setting, parts):
    told = complaint(preset("robust"), setting)
    assert told.startswith("--set: ")
    for part in parts:
        assert part in told


def test_setting_without_a_value_is_refused():
    assert complaint(preset("robust"), "seed") == '--set takes section.key=value, got "seed"'


def test_phase_that_is_switched_on_by_half_says_what_is_missing():
    told = complaint(preset("robust"), "training.adversarial.iterations=5")
    assert "training.adversarial.mse_weight is missing" in told
    assert "training.adversarial.adam is missing" in told


@pytest.mark.parametrize(
    ("name", "setting", "told"),
    [
        ("robust", "training.reconstruction=none", "R is never trained; set training.reconstruction or"),
        ("robust", "training.discrimination=none", "training.places.iterations must be given"),
        ("robust", f"training.discrimination.kinds={list(NEGATIVES)}", "leave at least one out"),
        ("ognet", "training.old_is_gold.old_after=2000", "at least old_after iterations"),
        ("ognet", "networks.discriminator_input=pair", "training.old_is_gold does not go with"),
        ("robust", "calibration.folds=1", "folds must be 0 (never) or at least 2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(name, setting, told):
    assert told in complaint(preset(name), setting)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["scoring={txture = 1.0}"], 'scoring: there is no part "txture"; did you mean "texture"? parts are: d, mse'),
        (["maps={cels = 1.0}"], 'maps: there is no part "cels"; did you mean "cells"? parts are: d, mse'),
        (["scoring={places = 1.0}"], "scoring: part places has no say there; it goes into maps alone"),
        (["maps={neighbours = 1.0}"], "maps: part neighbours has no say there; it goes into scoring alone"),
        (["training.discrimination=none", "training.places.iterations=5"], "part d needs a trained D"),
        (["training.places=none"], "part places needs the phase training.places"),
    ],
)
def test_a_part_that_nothing_can_make_is_refused(settings, told):
    with pytest.raises(ConfigError) as raised:
        check_parts(with_settings(preset("robust"), settings))
    assert told in str(raised.value)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_parts_of_every_preset_can_be_made(config):
    check_parts(config)


@pytest.mark.parametrize("name", ["article", "paper"])
@pytest.mark.parametrize("seen", ["pair", "image", "reconstruction"])
def test_any_preset_without_old_is_gold_takes_any_input_of_d(name, seen):
    config = with_settings(preset(name), [f"networks.discriminator_input={seen}"])
    check_parts(config)
    assert config.networks.discriminator_input == seen and config.scoring == {"d": 1.0}


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"seed = ", "is not valid TOML"), (b"\xff\xfe", "is not valid TOML"), (b'preset = "robst"', "robust")],
)
def test_broken_file_is_refused(tmp_path, content, told):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        load_config(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.toml cannot be read \(No such file"):
        load_config(tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("iterations", "reconstruction", "discrimination"), [(500, 500, 400), (250, 250, 200), (5, 5, 4), (1, 1, 1)]
)
def test_iterations_stretch_all_phases_in_proportion(iterations, reconstruction, discrimination):
    training = with_iterations(preset("robust"), iterations).training
    assert training.reconstruction.iterations == reconstruction
    assert training.discrimination.iterations == discrimination
    assert training.adversarial is None
    assert training.reconstruction.adam == PRESETS["robust"].training.reconstruction.adam


def test_iterations_stretch_the_places_and_the_old_r_too():
    config = with_settings(preset("robust"), ["training.places.iterations=800"])
    assert with_iterations(config, 50).training.places.iterations == 80
    assert with_iterations(preset("robust"), 50).training.places.iterations is None  # follows D's own phase later
    ognet = with_iterations(preset("ognet"), 100).training
    assert (ognet.adversarial.iterations, ognet.old_is_gold.old_after, ognet.old_is_gold.iterations) == (100, 5, 8)


def test_iterations_of_a_single_phase_are_its_own():
    training = with_iterations(preset("article"), 10).training
    assert training.adversarial.iterations == 10
    assert training.reconstruction is None and training.discrimination is None


@pytest.mark.parametrize("iterations", [0, -5])
def test_no_iterations_are_refused(iterations):
    with pytest.raises(ConfigError, match=r"iterations"):
        with_iterations(preset("robust"), iterations)


def test_every_field_of_a_dumped_config_is_read_back(write):
    text = dump_config(preset("robust")).replace("sigma = 0.3", "sigma = 0.25").replace("width = 16", "width = 24")
    config = load_config(write(text))
    assert (config.corruption.sigma, config.networks.width) == (0.25, 24)
    assert isinstance(config, Config)


def test_names_in_the_config_are_those_of_the_code():
    assert set(get_args(NegativeKind)) == set(NEGATIVES)
    assert tuple(TRAINED) == PHASES
    assert tuple(name for name in TrainingConfig.model_fields if name in PHASES) == PHASES


def test_what_is_ignored_becomes_normal_copies_and_no_anomaly():
    config = with_ignored(preset("robust"), ["light", "turn"])
    augmentation = config.training.augmentation
    assert (augmentation.brightness, augmentation.gain, augmentation.rotate, augmentation.shift) == (0.1, 0.2, 180.0, 0)
    assert augmentation.is_on and not preset("robust").training.augmentation.is_on
    assert augmentation.makes_normal == {"relit", "turned"}
    everything = with_ignored(preset("robust"), list(NUISANCES)).training.augmentation
    assert everything.makes_normal == {"relit", "turned", "blurred", "mirrored"}  # a shift of 5 % is none of 12 %
    slight = AugmentationConfig(rotate=10, shift=0.05, brightness=0.02)
    assert slight.is_on and slight.makes_normal == set()
    with pytest.raises(ConfigError, match='there is no "lights"; did you mean "light"'):
        with_ignored(config, ["lights"])
    with pytest.raises(ConfigError, match="makes all kinds of training"):
        with_settings(config, ['training.discrimination.kinds=["turned", "relit"]'])

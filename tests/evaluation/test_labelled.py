"""Labelled images, and a small untrained detector's figures on them."""

import unicodedata

import numpy as np
import pytest
import torch

from alocc.calibration import Calibration
from alocc.config import preset, with_settings
from alocc.data.frame import Frame
from alocc.data.images import ImageFormat
from alocc.data.mnist import load_mnist
from alocc.detector import Detector, image_hashes
from alocc.errors import DataError
from alocc.evaluation.labelled import evaluate, load_labelled, watch_on
from alocc.evaluation.metrics import auroc, evaluate_scores
from alocc.networks.architecture import build_networks
from alocc.parts.part import Normals
from alocc.scorer import Scorer
from alocc.seeding import generator
from alocc.training.calibrating import fit_part

FORMAT = ImageFormat(16, 16, 1)
COUNTS = {"good": 6, "scratch": 3, "dent": 2}


@pytest.fixture
def folder(tmp_path, save_image):
    """Images that are grey all over, each in a grey of its own."""
    shade = 0
    for name, count in COUNTS.items():
        for i in range(count):
            save_image(np.full((16, 16), shade, np.uint8), f"{name}/{i}.png")
            shade += 10
    return tmp_path


def shades(labelled, *, anomalous):
    return labelled.images.images[labelled.is_anomalous == anomalous][:, 0, 0, 0].tolist()


def detector_of(name, *settings):
    """Networks as they were born, calibrated on noise: enough to score with."""
    config = with_settings(preset(name), ["networks.width=4", *settings])
    images = torch.rand((40, 1, 16, 16), generator=generator(0, "images"))
    scorer = Scorer(config, Frame(FORMAT, config.images.tile))
    scorer.add_networks(*build_networks(config.networks, 1, FORMAT.size, generator(0, "weights")))
    for part in scorer.parts.values():
        fit_part(part, Normals(images))
    evidence = scorer.eval().over(images, scorer.image_evidence)
    scorer.fusion.fit(evidence)
    calibration, no_maps = Calibration.of(scorer.fusion(evidence)), np.full(1, np.inf)
    return Detector(config, scorer, calibration, no_maps, image_hashes(images), {})


@pytest.fixture(scope="module", params=["robust", "article"])
def detector(request):
    return detector_of(request.param)


@pytest.fixture(scope="module")
def digits():
    return load_labelled("mnist", FORMAT, ["1"], ["0"], limit=30)


def test_all_other_classes_are_anomalous(folder):
    labelled = load_labelled(folder, FORMAT, ["good"])
    assert shades(labelled, anomalous=False) == [0, 10, 20, 30, 40, 50]
    assert sorted(shades(labelled, anomalous=True)) == [60, 70, 80, 90, 100]


def test_only_named_classes_are_loaded(folder):
    labelled = load_labelled(folder, FORMAT, ["good"], ["dent"])
    assert shades(labelled, anomalous=True) == [90, 100]
    several = load_labelled(folder, FORMAT, ["good", "dent"], ["scratch"])
    assert sorted(shades(several, anomalous=False)) == [0, 10, 20, 30, 40, 50, 90, 100]


def test_images_without_a_class_are_neither_normal_nor_anomalous_but_named(folder, save_image):
    for i in range(2):
        save_image(np.full((16, 16), 200 + i, np.uint8), f"{i}.png")
    labelled = load_labelled(folder, FORMAT, ["good"])
    assert sorted(shades(labelled, anomalous=True)) == [60, 70, 80, 90, 100]
    assert [item.reason for item in labelled.images.skipped] == [f"{folder}/{i}.png has no class" for i in range(2)]
    with pytest.raises(DataError, match=r"0\.png has no class; leave --strict out"):
        load_labelled(folder, FORMAT, ["good"], strict=True)
    assert load_labelled(folder, FORMAT, ["good"], ["dent"]).images.skipped == ()


def test_an_accent_is_the_same_in_either_of_unicodes_forms(folder, save_image):
    apart, together = (unicodedata.normalize(form, "schön") for form in ("NFD", "NFC"))
    save_image(np.full((16, 16), 200, np.uint8), f"{apart}/0.png")
    for asked in (apart, together):
        assert shades(load_labelled(folder, FORMAT, [asked]), anomalous=False) == [200]
        assert shades(load_labelled(folder, FORMAT, ["good"], [asked]), anomalous=True) == [200]


def test_labels_stay_with_their_images(folder):
    labelled = load_labelled(folder, FORMAT, ["dent"])
    np.testing.assert_array_equal(labelled.is_anomalous, labelled.images.classes != "dent")
    for name, is_anomalous in zip(labelled.images.names, labelled.is_anomalous, strict=True):
        assert ("/dent/" in str(name)) != is_anomalous


def test_limit_keeps_an_even_spread_of_either_side(folder):
    labelled = load_labelled(folder, FORMAT, ["good"], ["scratch"], limit=3)
    assert shades(labelled, anomalous=False) == [0, 20, 50]
    assert shades(labelled, anomalous=True) == [60, 70, 80]
    everything = load_labelled(folder, FORMAT, ["good"], ["scratch"], limit=100)
    assert len(everything.images) == 9


def test_built_in_data_are_the_test_images(digits):
    assert (digits.is_anomalous.sum(), (~digits.is_anomalous).sum()) == (30, 30)
    all_digits = load_labelled("mnist", ImageFormat(28, 28, 1), ["1"])
    images, names = load_mnist("test")
    assert len(all_digits.images) == 10_000
    np.testing.assert_array_equal(all_digits.is_anomalous, names != "1")
    np.testing.assert_array_equal(all_digits.images.images[:, 0].numpy(), images)


def test_class_on_both_sides_is_refused(folder):
    with pytest.raises(DataError, match=r'"dent" is named both normal and anomalous'):
        load_labelled(folder, FORMAT, ["good", "dent"], ["dent"])


def test_no_normal_class_is_refused(folder):
    with pytest.raises(DataError, match=r"--normal"):
        load_labelled(folder, FORMAT, [])


@pytest.mark.parametrize(("normal", "anomalous"), [(["godo"], None), (["good"], ["dnt"]), (["godo"], ["dent"])])
def test_unknown_class_is_refused_with_the_known_ones(folder, normal, anomalous):
    with pytest.raises(DataError, match=r'has no class "(godo|dnt)".*dent, good, scratch'):
        load_labelled(folder, FORMAT, normal, anomalous)


@pytest.mark.parametrize("anomalous", [None, ["dent"]])
def test_images_without_classes_are_refused(folder, anomalous):
    with pytest.raises(DataError, match=r"no class.*sub-folder"):
        load_labelled(folder / "good", FORMAT, ["good"], anomalous)


def test_arrays_are_refused_for_they_have_no_classes():
    with pytest.raises(DataError, match=r"class"):
        load_labelled(np.zeros((4, 16, 16)), FORMAT, ["good"])


def test_empty_side_is_refused(folder):
    with pytest.raises(DataError, match=r"anomalous"):
        load_labelled(folder, FORMAT, list(COUNTS))


def test_evaluation_is_that_of_the_detectors_scores(detector, digits):
    scores = detector.score(digits.images.images)
    expected = evaluate_scores(
        scores.anomaly_score,
        digits.is_anomalous,
        threshold=detector.threshold,
        alpha=detector.alpha,
        parts=scores.parts,
        classes=digits.images.classes,
        resamples=10,
    )
    assert evaluate(detector, digits, resamples=10) == expected
    assert evaluate(detector, digits, scores, resamples=10) == expected
    assert expected.figures["recall"] == scores.is_anomaly[digits.is_anomalous].mean()
    assert set(expected.auroc_of_parts) == set(detector.config.scoring)


def test_watch_reads_class_1_both_ways(detector, digits):
    figures = watch_on(digits)(detector)
    scores = detector.score(digits.images.images)
    called_real = scores.p_real < 0.5
    assert figures["auroc"] == auroc(scores.anomaly_score, digits.is_anomalous)
    assert figures["accuracy"] == (scores.is_anomaly == digits.is_anomalous).mean()
    assert figures["accuracy_real"] == (called_real == digits.is_anomalous).mean()
    assert figures["accuracy_real"] + figures["accuracy_flipped"] == pytest.approx(1)
    assert figures["p_real_normal"] == pytest.approx(scores.p_real[~digits.is_anomalous].mean())
    assert figures["p_real_anomalous"] == pytest.approx(scores.p_real[digits.is_anomalous].mean())


def test_watch_without_a_discriminator_has_the_detectors_own_figures_only(digits):
    phases = ("training.discrimination=none", "training.places=none")
    detector = detector_of("robust", "scoring={mse = 1.0}", "maps={mse = 1.0}", *phases)
    assert set(watch_on(digits)(detector)) == {"accuracy", "f1", "auroc"}

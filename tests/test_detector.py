"""The detector: what it scores, what it refuses, and the file that it is."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import alocc
from alocc.config import preset, with_settings
from alocc.data.splits import split_normals
from alocc.errors import ArtefactError, ConfigError, DataError
from alocc.export import export
from alocc.export.scorer import Verdicts
from alocc.storage import CHECKSUM, METADATA_KEY, load_tensors, save_tensors

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
    first, second = whole.scorer.parts["d"].networks
    assert not torch.equal(first.head.weight, second.head.weight)

    def with_one(index):
        scorer = copy.deepcopy(whole.scorer)
        scorer.R = torch.nn.ModuleList([scorer.R[index]])
        scorer.parts["d"].networks = torch.nn.ModuleList([scorer.parts["d"].networks[index]])
        return replace(whole, scorer=scorer)

    images = images_of(9, 1)
    one, other = (with_one(index) for index in (0, 1))
    np.testing.assert_allclose(
        whole.score(images).parts["d"], (one.score(images).parts["d"] + other.score(images).parts["d"]) / 2, rtol=1e-5
    )
    torch.testing.assert_close(
        whole.reconstruct(images)[1], (one.reconstruct(images)[1] + other.reconstruct(images)[1]) / 2
    )


def test_few_images_support_the_alpha_of_all_of_them():
    detector = alocc.train(images_of(99, 0), config=with_settings(preset("robust"), SMALL), iterations=4)
    assert len(detector.held_out_scores) == 99 and detector.alpha == 0.01


def test_scoring_changes_nothing_in_the_detector(detector, fresh):
    before = {name: value.clone() for name, value in detector.scorer.state_dict().items()}
    detector.score(fresh, maps=True)
    after = detector.scorer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert not any(module.training for module in detector.scorer.modules())


@pytest.mark.parametrize("size", [1, 7, 64, 65])
def test_a_score_does_not_depend_on_batch_mates(detector, fresh, size):
    whole = detector.score(fresh)
    some = detector.score(fresh[:size])
    np.testing.assert_array_equal(some.anomaly_score, whole.anomaly_score[:size])
    np.testing.assert_array_equal(detector.score(fresh[::-1]).anomaly_score[::-1], whole.anomaly_score)
    np.testing.assert_array_equal(detector.anomaly_map(fresh[:size]), detector.anomaly_map(fresh)[:size])


def test_no_images_give_no_scores(detector):
    scores = detector.score(np.empty((0, 16, 16), np.uint8), maps=True)
    assert len(scores) == 0 and scores.is_anomaly.dtype == bool
    assert scores.parts.keys() == detector.config.scoring.keys() and len(scores.p_real) == 0
    assert scores.anomaly_map.shape == (0, 16, 16) and scores.anomaly_map.dtype == np.float32


def test_maps_in_the_same_pass_are_the_same_numbers(detector, fresh):
    both, scores, maps = detector.score(fresh, maps=True), detector.score(fresh), detector.anomaly_map(fresh)
    for field in ("anomaly_score", "p_value", "is_anomaly", "p_real"):
        np.testing.assert_array_equal(getattr(both, field), getattr(scores, field))
    assert both.parts.keys() == scores.parts.keys()
    for name, part in scores.parts.items():
        np.testing.assert_array_equal(both.parts[name], part)
    np.testing.assert_array_equal(both.anomaly_map, maps)
    assert maps.shape == (200, 16, 16) and scores.anomaly_map is None
    assert np.ptp(maps, axis=(1, 2)).min() > 0


def test_p_real_is_the_sigmoid_of_ds_logit_by_hand(detector, fresh):
    x = torch.from_numpy(fresh[:, None]).float() / 255
    x_noisy = x if detector.scorer.noise is None else (x + detector.scorer.noise).clamp(0, 1)
    logits = []
    with torch.inference_mode():
        for R, D in zip(detector.scorer.R, detector.scorer.parts["d"].networks, strict=True):
            x_hat = R(x_noisy)
            answers = D.head(D.encoder(torch.cat([x, x_hat], 1) if detector.config.preset == "robust" else x_hat))
            two = answers.shape[1] == 2  # the article's softmax; class 1 is "real"
            logits.append((answers[:, 1] - answers[:, 0] if two else answers[:, 0]).mean((1, 2)))
    logit = torch.stack(logits).mean(0)
    scores = detector.score(fresh)
    np.testing.assert_allclose(scores.p_real, 1 / (1 + np.exp(-logit.double().numpy())), rtol=1e-4)
    np.testing.assert_allclose(scores.parts["d"], -logit.numpy(), rtol=1e-4, atol=1e-5)
    assert np.ptp(scores.p_real) > 1e-4  # not the same for all, so that it could not be 1 − p_real by chance


def test_p_real_is_high_for_normal_images_and_low_for_others():
    detector = alocc.train(images_of(80, 0), config=with_settings(preset("robust"), SMALL), iterations=150)
    rows, columns = np.mgrid[:16, :16]
    stripes = np.stack([128 + 100 * np.sin(columns * 1.3 + rows * 0.7 + phase) for phase in range(20)]).astype(np.uint8)
    normal, other = detector.score(images_of(60, 5)).p_real, detector.score(stripes).p_real
    assert np.median(normal) > 0.5 > np.median(other)
    assert (normal[:, None] > other).mean() > 0.95


def test_r_gets_noise_at_scoring_only_where_the_preset_says_so(detector, fresh):
    x = torch.from_numpy(fresh[:5, None]).float() / 255
    x_noisy, x_hat = detector.reconstruct(fresh[:5])
    if detector.config.preset == "article":
        assert detector.scorer.noise.std() == pytest.approx(0.155, rel=0.15)
        torch.testing.assert_close(x_noisy, (x + detector.scorer.noise).clamp(0, 1))
    else:
        assert torch.equal(x_noisy, x)
    with torch.inference_mode():
        torch.testing.assert_close(x_hat, torch.stack([R(x_noisy) for R in detector.scorer.R]).mean(0))


def test_saved_and_loaded_detector_gives_the_same_numbers(detector, fresh, tmp_path):
    detector.save(tmp_path / "d.safetensors")
    loaded = alocc.Detector.load(tmp_path / "d.safetensors")
    before, after = detector.score(fresh, maps=True), loaded.score(fresh, maps=True)
    for field in ("anomaly_score", "p_value", "is_anomaly", "p_real", "anomaly_map"):
        np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
    assert loaded.config == detector.config
    assert (loaded.threshold, loaded.map_threshold) == (detector.threshold, detector.map_threshold)
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "d.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()


def test_verdict_is_the_p_value_and_the_threshold_at_once(detector, fresh):
    scores = detector.score(fresh)
    np.testing.assert_array_equal(scores.is_anomaly, scores.p_value <= detector.alpha)
    np.testing.assert_array_equal(scores.is_anomaly, scores.anomaly_score > detector.threshold)


def test_float_images_score_as_their_uint8_twins(detector, fresh):
    from_float = detector.score(fresh / np.float32(255))
    np.testing.assert_allclose(from_float.anomaly_score, detector.score(fresh).anomaly_score, atol=1e-5)


def test_tensors_score_as_the_arrays_that_they_are(detector, fresh):
    expected = detector.score(fresh).anomaly_score
    x = torch.from_numpy(fresh[:, None])
    np.testing.assert_array_equal(detector.score(x).anomaly_score, expected)
    np.testing.assert_array_equal(detector.score(x.float() / 255).anomaly_score, expected)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.rand((3, 1, 16, 16), generator=torch.Generator().manual_seed(0)) * 255, r"floats in \[0, 1\]"),
        (torch.full((3, 1, 16, 16), -0.01), r"floats in \[0, 1\]"),
        (torch.full((3, 1, 16, 16), torch.nan), r"floats in \[0, 1\]"),
        (torch.zeros((3, 1, 16, 16), dtype=torch.int64), "got torch.int64"),
        (torch.zeros((3, 1, 16, 16), dtype=torch.bool), "got torch.bool"),
        (torch.zeros((3, 1, 16, 17)), r"the detector's format, \(n, 1, 16, 16\), got \(3, 1, 16, 17\)"),
        (torch.zeros((3, 3, 16, 16)), r"got \(3, 3, 16, 16\)"),
        (torch.zeros((3, 16, 16)), r"got \(3, 16, 16\)"),
        (torch.zeros((0, 1, 8, 8)), r"got \(0, 1, 8, 8\)"),
    ],
    ids=["0 to 255", "negative", "NaN", "int64", "bool", "size", "channels", "no channels", "none of another size"],
)
def test_tensors_of_another_range_type_or_size_are_refused(detector, images, told):
    for method in (detector.score, detector.anomaly_map, detector.reconstruct, detector.recalibrated):
        with pytest.raises(DataError, match=told):
            method(images)


def test_one_image_without_its_first_axis_is_refused_not_taken_apart(fresh):
    colour = alocc.train(
        np.stack([images_of(40, 0)] * 2 + [images_of(40, 1)], -1),
        config=with_settings(preset("robust"), SMALL),
        iterations=2,
    )
    with pytest.raises(DataError, match=r"\(16, 16, 3\) looks like one image; give image\[None\]"):
        colour.score(np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(DataError, match="different sizes"):
        colour.score([np.zeros((16, 16, 3), np.uint8), np.zeros((9, 16, 3), np.uint8)])


def test_lower_alpha_flags_no_more_images(detector, fresh):
    flagged = [detector.with_alpha(alpha).score(fresh).is_anomaly.sum() for alpha in (0.5, 0.2, 0.1)]
    assert flagged == sorted(flagged, reverse=True)
    with pytest.raises(ConfigError, match="alpha must be at least"):
        detector.with_alpha(0.001)


def test_recalibration_moves_the_thresholds_of_the_score_and_of_the_map(detector):
    noise = np.random.default_rng(3).integers(0, 60, (150, 16, 16))
    images = np.clip(images_of(150, 2) + noise, 0, 255).astype(np.uint8)
    before = detector.threshold, detector.map_threshold, detector.score(images).anomaly_score
    moved = detector.recalibrated(torch.from_numpy(images[:, None]), alpha=0.1)
    # (1 + k) / 151 ≤ 0.1 for k ≤ 14: an anomaly is above the 136th of 150, ascending
    np.testing.assert_array_equal(moved.score(images).anomaly_score, before[2])
    assert moved.alpha == 0.1 and moved.threshold == np.sort(before[2])[135]
    maxima = np.sort(detector.anomaly_map(images).max((1, 2)))  # the grid is as large as these images
    assert moved.map_threshold == pytest.approx(maxima[135], rel=1e-5)
    assert (detector.threshold, detector.map_threshold) == before[:2]
    assert moved.threshold != detector.threshold and moved.map_threshold != detector.map_threshold
    assert moved.was_seen(torch.from_numpy(images[:, None])).all()
    with pytest.raises(DataError, match="no normal images"):
        detector.recalibrated(torch.empty((0, 1, 16, 16)))


def weights_of(detector):
    """Device, type and bytes of every number of a scorer, by its name."""
    return {name: (value.device, value.dtype, value.clone()) for name, value in detector.scorer.state_dict().items()}


def assert_unchanged(detector, before):
    after = weights_of(detector)
    assert list(after) == list(before)
    for name, (device, dtype, value) in before.items():
        assert after[name][:2] == (device, dtype), name
        assert torch.equal(after[name][2], value), name


def test_moving_a_detector_leaves_the_callers_where_it_is(detector, fresh):
    before, scores = weights_of(detector), detector.score(fresh[:9])
    moved = detector.to("meta")  # a device that every machine has
    assert {value.device.type for value in moved.scorer.parts.state_dict().values()} == {"meta"}
    assert_unchanged(detector, before)
    same_place = detector.to("cpu")
    with torch.no_grad():
        same_place.scorer.R[0].decoder.to_image.bias.add_(1)
    assert_unchanged(detector, before)
    np.testing.assert_array_equal(detector.score(fresh[:9]).anomaly_score, scores.anomaly_score)


def test_export_leaves_the_callers_detector_as_it_is(tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    detector = alocc.train(images_of(80, 0), config=with_settings(preset("article"), SMALL), iterations=12)
    images = images_of(9, 1)
    before, scores = weights_of(detector), detector.score(images)
    modules = [(name, type(module)) for name, module in detector.scorer.named_modules()]
    Verdicts(detector)
    assert_unchanged(detector, before)
    export(detector, tmp_path / "detector.onnx")
    assert_unchanged(detector, before)
    assert [(name, type(module)) for name, module in detector.scorer.named_modules()] == modules
    np.testing.assert_array_equal(detector.score(images).anomaly_score, scores.anomaly_score)


def test_images_of_the_training_are_recognised(detector, fresh):
    prepared = torch.from_numpy(images_of(80, 0)[:, None])
    assert detector.was_seen(prepared).all()
    assert not detector.was_seen(torch.from_numpy(fresh[:, None])).any()


def test_colour_images_of_an_odd_size_work():
    images = np.stack([images_of(40, seed, (17, 21)) for seed in range(3)], axis=-1)
    detector = alocc.train(images, config=with_settings(preset("robust"), SMALL), iterations=3)
    assert str(detector.image_format) == "21×17 colour"
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
    with pytest.raises(ArtefactError, match=r"of format 99; this alocc reads formats 8 and 9: upgrade"):
        alocc.Detector.load(path)
    save_tensors(path, {}, {**metadata})
    with pytest.raises(ArtefactError, match="damaged"):
        alocc.Detector.load(path)
    save_tensors(path, tensors, {"kind": "checkpoint"})
    with pytest.raises(ArtefactError, match="not a detector"):
        alocc.Detector.load(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A detector's file, as it should be."""
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    alocc.train(images_of(40, 0), config=with_settings(preset("robust"), SMALL), iterations=2).save(path)
    return path


def edited(saved, path, edit):
    """Write the file again after ``edit`` of its tensors and its metadata, by safetensors alone."""
    tensors = load_file(saved)
    del tensors[CHECKSUM]
    with safe_open(saved, "pt") as file:
        metadata = json.loads(file.metadata()[METADATA_KEY])
    edit(tensors, metadata)
    save_file(tensors, path, {METADATA_KEY: json.dumps(metadata)})
    return path


def put(name, change):
    """An edit of one tensor."""

    def edit(tensors, metadata):
        tensors[name] = change(tensors[name]).contiguous()

    return edit


def note(value, *keys):
    """An edit of one note."""

    def edit(tensors, metadata):
        *sections, last = keys
        for key in sections:
            metadata = metadata[key]
        assert last in metadata
        metadata[last] = value

    return edit


def with_nan(value):
    value = value.clone()
    value.view(-1)[0] = torch.nan
    return value


HEAD = "scorer.parts.d.networks.0.head.weight"


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (put("held_out_scores", lambda scores: scores.flip(0)), "held_out_scores are not sorted"),
        (put("held_out_scores", with_nan), "held_out_scores are no finite numbers"),
        (put("held_out_scores", lambda scores: scores[:0]), "held_out_scores are no finite numbers"),
        (put("held_out_scores", lambda scores: scores.float()), "held_out_scores are no finite numbers"),
        (put("held_out_scores", lambda scores: scores[None]), "held_out_scores are no finite numbers"),
        (put("map_maxima", with_nan), "map_maxima are no finite numbers"),
        (put("map_maxima", lambda maxima: maxima[:0]), "map_maxima are no finite numbers"),
        (put("seen", lambda seen: seen.double()), "seen is no list of hashes"),
        (put(HEAD, with_nan), "head.weight is not finite"),
        (put(HEAD, lambda weight: weight * torch.inf), "head.weight is not finite"),
        (put(HEAD, lambda weight: weight[:, :1]), "RuntimeError"),
        (put("scorer.fusion.scales.d.deviation", with_nan), "deviation is not finite"),
        (lambda tensors, metadata: tensors.pop(HEAD), "RuntimeError"),
        (lambda tensors, metadata: tensors.pop("held_out_scores"), "KeyError: 'held_out_scores'"),
        (note(10**6, "config", "networks", "width"), "networks of width 4, not 1000000"),
        (note(10**6, "config", "networks", "latent_dim"), "a bottleneck other than networks.latent_dim 1000000"),
        (note("pair of", "config", "networks", "discriminator_input"), "ValidationError"),
        (note(10**6, "image_format", "height"), "image_format 16×1000000 grey"),
        (note(10**6, "image_format", "width"), "image_format 1000000×16 grey"),
        (note(0, "image_format", "width"), "image_format 0×16 grey"),
        (note(2, "image_format", "channels"), "image_format"),
        (  # of thumbnails: what the bottleneck was made for is looked at before anything is
            note({"height": 4096, "width": 4096, "channels": 1}, "image_format"),
            "a bottleneck for images of another size than 64×64 grey",
        ),
        (note({"height": 8, "width": 8, "channels": 1}, "image_format"), "too small for these networks"),
        (note(10**6, "n_networks"), "n_networks 1000000"),
        (note(0, "n_networks"), "n_networks 0"),
        (note(0, "alpha"), "alpha must be above 0 and below 1, got 0"),
        (note(2, "alpha"), "alpha must be above 0 and below 1, got 2"),
        (note(float("nan"), "alpha"), "alpha must be above 0 and below 1"),
        (note(1e-6, "alpha"), "alpha must be at least"),
        (note(None, "alpha"), "TypeError"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(saved, tmp_path, edit, told):
    path = edited(saved, tmp_path / "hostile.safetensors", edit)
    with pytest.raises(ArtefactError, match=told) as raised:
        alocc.Detector.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path} is damaged (") and "\n" not in message and len(message) < len(str(path)) + 300


def test_a_file_that_is_written_again_unchanged_is_not_refused(saved, tmp_path):
    path = edited(saved, tmp_path / "same.safetensors", lambda tensors, metadata: None)
    np.testing.assert_array_equal(
        alocc.Detector.load(path).score(images_of(3, 1)).anomaly_score,
        alocc.Detector.load(saved).score(images_of(3, 1)).anomaly_score,
    )


def test_alpha_of_zero_is_refused_not_taken_for_none(detector, fresh):
    with pytest.raises(ConfigError, match="alpha"):
        detector.recalibrated(torch.from_numpy(fresh[:30])[:, None], alpha=0.0)

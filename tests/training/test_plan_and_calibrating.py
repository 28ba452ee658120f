"""What a training learns from, what it is measured with, and in which order: faults here flatter a detector."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import alocc
from alocc.config import PRESETS, preset, with_settings
from alocc.data.frame import Frame
from alocc.data.resizing import ImageFormat
from alocc.errors import ConfigError, DataError
from alocc.networks.architecture import build_networks
from alocc.parts.cells import Cells
from alocc.parts.fusion import Fusion
from alocc.parts.neighbours import Neighbours
from alocc.parts.part import Normals
from alocc.scorer import Scorer
from alocc.seeding import generator
from alocc.synthesis.negatives import NEGATIVES
from alocc.training import calibrating, folds, phases
from alocc.training.calibrating import FoldScorer, Kinds, calibrate_map
from alocc.training.loop import Hooks
from alocc.training.run import train

SMALL = ["networks.width=4", "training.batch_size=8", "training.precision=32-true"]
N = 40
FORMAT = ImageFormat(16, 16, 1)


def numbered(n=N):
    """Images of noise, whose first pixel is their number."""
    images = np.random.default_rng(0).integers(60, 200, (n, 16, 16), dtype=np.uint8)
    images[:, 0, 0] = np.arange(n)
    return images


IMAGES = numbered()


def numbers(x):
    """Which images these are."""
    first = x[:, 0, 0, 0]
    return set((first if x.dtype == torch.uint8 else (255 * first).round()).long().tolist())


def config(name, *settings):
    return with_settings(preset(name), [*SMALL, *settings])


def tensor(images=IMAGES):
    return torch.from_numpy(images)[:, None] / 255


@pytest.fixture
def trainings(monkeypatch):
    """What each fold's training is given, and what R is shown while it learns."""
    found = []

    def spy(plan, fold, state, images, *rest):
        one = SimpleNamespace(plan=plan, fold=fold, state=state, images=images, R_saw=[])
        found.append(one)
        R = state.networks["R"]

        def note(R, given):
            if R.training:
                one.R_saw.append(given[0].clone())

        hook = R.register_forward_pre_hook(note)
        train_networks(plan, fold, state, images, *rest)
        hook.remove()

    train_networks = folds.train_networks
    monkeypatch.setattr(folds, "train_networks", spy)
    return found


# ---- folds ----


@pytest.mark.parametrize("n_folds", [0, 2, 3])
def test_no_image_is_held_out_from_what_it_trains_and_folds_hold_out_each_once(n_folds):
    plans = []
    hooks = Hooks(started=lambda plan, again: plans.append(plan))
    train(IMAGES, config=config("article", f"calibration.folds={n_folds}"), iterations=3, hooks=hooks)
    folds = plans[0].images.split.folds
    assert len(folds) == max(1, n_folds)
    held_out = torch.cat([fold.held_out for fold in folds]).tolist()
    assert len(held_out) == len(set(held_out)) and (n_folds == 0 or sorted(held_out) == list(range(N)))
    for fold in folds:
        fit, held = set(fold.fit.tolist()), set(fold.held_out.tolist())
        assert fit and held and not fit & held and fit | held == set(range(N))


@pytest.mark.parametrize("n_folds", [0, 2])
def test_r_never_sees_the_images_that_its_fold_holds_out(trainings, n_folds):
    settings = ["corruption.sigma=0.0", f"calibration.folds={n_folds}"]  # without noise, images show their number
    train(IMAGES, config=config("article", *settings), iterations=30)
    assert [one.fold for one in trainings] == list(range(max(1, n_folds)))
    for one in trainings:
        fold = one.plan.images.split.folds[one.fold]
        assert numbers(one.images.fit) == set(fold.fit.tolist()) and len(one.images.fit) == len(fold.fit)
        assert numbers(one.images.held_out) == set(fold.held_out.tolist())
        assert set.union(*map(numbers, one.R_saw)) == set(fold.fit.tolist())  # all of them, and no other


def test_d_and_places_never_see_the_images_that_their_fold_holds_out(trainings, monkeypatch):
    seen = {"jitter": [], "make_negatives": [], "pasted": []}
    for name, calls in seen.items():
        original = getattr(phases, name)

        def spy(x, *rest, original=original, calls=calls):
            calls.append((len(trainings) - 1, numbers(x)))
            return original(x, *rest)

        monkeypatch.setattr(phases, name, spy)
    train(IMAGES, config=config("robust"), iterations=40)
    for one in trainings:
        fit = set(one.plan.images.split.folds[one.fold].fit.tolist())
        for name in ("jitter", "make_negatives"):
            assert set.union(*(images for fold, images in seen[name] if fold == one.fold)) == fit
    assert {fold for fold, _ in seen["pasted"]} == {0}
    assert set.union(*(images for _, images in seen["pasted"])) == set(
        trainings[0].plan.images.split.folds[0].fit.tolist()
    )


def test_held_out_scores_stand_fold_after_fold_each_by_its_own_networks(trainings):
    """By hand: −D(R(x + noise)) of each image, by the networks of the fold that held it out."""
    detector = train(IMAGES, config=config("article", "calibration.folds=3"), iterations=30)
    split, scorer = trainings[0].plan.images.split, detector.scorer
    assert len(scorer.R) == len(scorer.parts["d"].networks) == 3
    evidence = []
    with torch.no_grad():
        for fold, R, D in zip(split.folds, scorer.R, scorer.parts["d"].networks, strict=True):
            x = tensor()[fold.held_out]
            evidence.append(-D(R((x + scorer.noise).clamp(0, 1))))
    evidence = torch.cat(evidence).double()
    z = (evidence - evidence.mean()) / evidence.std(correction=0)  # one part: the score is its z
    np.testing.assert_allclose(detector.held_out_in_order, z, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(detector.held_out_scores, np.sort(detector.held_out_in_order))
    by_all = detector.score(IMAGES).anomaly_score[torch.cat([fold.held_out for fold in split.folds])]
    assert np.abs(by_all - detector.held_out_in_order).max() > 0.05  # the mean of all networks is another score


def test_what_was_fitted_to_all_images_measures_each_by_others_and_in_the_order_of_folds(trainings):
    """By hand: mean distance to the five nearest of the other images, at 14×14 pixels."""
    settings = ["scoring={neighbours=1.0}", "calibration.folds=2", "images.size=[14, 14]"]
    images = IMAGES[:, :14, :14]
    detector = train(images, config=config("article", *settings), iterations=3)
    rows = tensor(images).flatten(1).double()
    distances = torch.cdist(rows, rows).fill_diagonal_(torch.inf)
    evidence = (distances.topk(5, largest=False).values.mean(1) + Neighbours.floor).log()
    z = ((evidence - evidence.mean()) / evidence.std(correction=0)).numpy()
    order = torch.cat([fold.held_out for fold in trainings[0].plan.images.split.folds])
    assert sorted(order.tolist()) == list(range(N)) != order.tolist()
    np.testing.assert_allclose(detector.held_out_in_order, z[order], rtol=1e-3, atol=1e-3)


# ---- noise ----


def test_article_scores_with_its_noise():
    detector = train(IMAGES, config=config("article"), iterations=5)
    noise = 0.155 * torch.randn((1, 1, 16, 16), generator=generator(0, "scoring_noise"))
    R, D = detector.scorer.R[0], detector.scorer.parts["d"].networks[0]
    with torch.no_grad():
        by_hand = -D(R((tensor() + noise).clamp(0, 1)))
        without = -D(R(tensor()))
    scores = detector.score(IMAGES)
    np.testing.assert_allclose(scores.parts["d"], by_hand, rtol=1e-4, atol=1e-5)
    assert np.abs(scores.parts["d"] - without.numpy()).mean() > 5e-3
    detector.scorer.noise = None
    np.testing.assert_allclose(detector.score(IMAGES).parts["d"], without, rtol=1e-4, atol=1e-5)
    assert np.abs(detector.score(IMAGES).anomaly_score - scores.anomaly_score).mean() > 0.05


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_r_is_trained_with_fresh_noise(name, trainings):
    grey = np.full((N, 16, 16), 128, np.uint8)
    train(grey, config=config(name, "calibration.folds=0"), iterations=6)
    noise = torch.stack(trainings[0].R_saw) - 128 / 255  # (batches, 8, 1, 16, 16)
    sigma = preset(name).corruption.sigma
    inside = noise.abs() < 0.45  # where nothing is clipped
    expected = sigma * torch.randn(100_000, generator=generator(0, "test")).clamp(-0.45 / sigma, 0.45 / sigma)
    assert noise[inside].mean().abs() < 0.02
    assert noise.clamp(-0.45, 0.45).std() == pytest.approx(float(expected.std()), rel=0.03)
    flat = noise.flatten(0, 1).flatten(1)  # one row an image
    assert len(flat) >= 48 and torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.35


# ---- schedule ----


def test_learning_rates_follow_the_phases_schedule(trainings):
    rates = {}

    def note(moment):
        for name, optimizer in trainings[-1].state.optimizers.items():
            if name.startswith(moment.phase):
                rates.setdefault(name, []).append(max(group["lr"] for group in optimizer.param_groups))

    lengths = ["training.discrimination.iterations=5", "training.reconstruction.iterations=10"]
    robust = config("robust", *lengths, "training.places.iterations=20", "calibration.folds=0")
    train(IMAGES, config=robust, hooks=Hooks(progress=note))
    peaks = {"reconstruction.R": (2e-3, 10), "discrimination.D": (1e-3, 5), "places.places": (3e-3, 20)}
    assert rates.keys() == peaks.keys()
    for name, (peak, n) in peaks.items():
        assert len(rates[name]) == n
        share = ((n - 1) / n - 0.3) / 0.7  # of the way down, in the last iteration
        last = peak * (1 / 250_000 + (1 - 1 / 250_000) * (1 + np.cos(np.pi * share)) / 2)
        assert rates[name][0] == pytest.approx(peak / 25)
        assert rates[name][-1] == pytest.approx(last)
    assert rates["reconstruction.R"][3] == pytest.approx(2e-3) and rates["places.places"][6] == pytest.approx(3e-3)


def test_a_constant_learning_rate_stays(trainings):
    rates = []

    def note(moment):
        rates.append({g["lr"] for optimizer in trainings[0].state.optimizers.values() for g in optimizer.param_groups})

    train(IMAGES, config=config("article"), iterations=5, hooks=Hooks(progress=note))
    assert rates == [{2e-4}] * 5


# ---- maps ----


@pytest.mark.parametrize("n_folds", [0, 2])
def test_cells_are_fitted_to_images_that_do_not_calibrate_them(trainings, n_folds):
    settings = ["maps={cells=1.0}", "calibration.folds=" + str(n_folds)]
    detector = train(IMAGES, config=config("article", *settings), iterations=3)
    fold = trainings[0].plan.images.split.folds[0]
    found, expected, of_all = detector.scorer.parts["cells"], *(Cells(FORMAT, detector.config) for _ in range(2))
    images = torch.from_numpy(IMAGES)[:, None]
    with torch.no_grad():
        expected.fit(Normals(images[fold.fit]))
        of_all.fit(Normals(images))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.whitening, expected.whitening)
    assert not torch.allclose(found.mean, of_all.mean, atol=1e-3)
    assert len(detector.map_maxima) == len(fold.held_out)


def test_highest_values_of_maps_are_on_the_scale_of_the_other_tenths():
    """Evidence as if of 23 images: by hand, each tenth on the scale of the other nine; in the end the scale of all."""
    article = config("article")
    scorer = Scorer(article, Frame(FORMAT))
    scorer.add_networks(*build_networks(article.networks, 1, (16, 16), generator(0, "weights")))
    fold = FoldScorer(scorer.eval(), torch.from_numpy(IMAGES)[:23, None])
    peaks = calibrate_map(fold)

    x = tensor()[:23]
    x_noisy = (x + scorer.noise).clamp(0, 1)
    with torch.no_grad():
        view = SimpleNamespace(x=x, x_hats=[scorer.R[0](x_noisy)])
        evidence = {f"{name}.grid": scorer.parts[name](view).grid for name in ("d", "mse")}
    by_hand, fusion, own_scale = np.empty(23), Fusion(article.maps, scorer.parts, (16, 16)), np.empty(23)
    for i in range(23):
        others = torch.arange(23) % 10 != i % 10
        fusion.fit({name: values[others] for name, values in evidence.items()})
        by_hand[i] = fusion({name: values[i : i + 1] for name, values in evidence.items()}).max()
    np.testing.assert_allclose(peaks, by_hand, rtol=1e-3, atol=1e-4)
    fusion.fit(evidence)
    own_scale = fusion(evidence).flatten(1).amax(1)
    assert peaks.mean() > 1.02 * own_scale.mean()  # on its own scale an image looks too normal
    for name, scale in fusion.scales.items():
        torch.testing.assert_close(scorer.map_fusion.scales[name].mean, scale.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(scorer.map_fusion.scales[name].deviation, scale.deviation, rtol=1e-3, atol=1e-4)


# ---- kinds of pseudo-anomaly ----


def test_unseen_kinds_are_those_that_d_did_not_meet_and_that_do_not_look_normal():
    unseen = Kinds(met=["elastic", "turned"], looks_normal=["swirled"]).unseen
    assert unseen == [kind for kind in NEGATIVES if kind not in ("elastic", "turned", "swirled")]


def test_d_meets_some_kinds_and_is_measured_on_others_and_none_that_looks_normal_counts(monkeypatch):
    asked = set(preset("robust").training.discrimination.kinds)
    met = ["turned", "tinted"]
    monkeypatch.setattr(calibrating, "useful_kinds", lambda score, held_out, kinds, stream: met)
    used = {"training": [], "polarity": []}

    def noting(where, module, name, position):
        original = getattr(module, name)

        def spy(*given):
            used[where].append(list(given[position]))
            return original(*given)

        monkeypatch.setattr(module, name, spy)

    noting("training", phases, "make_negatives", 1)
    noting("polarity", calibrating, "make_negatives", 1)
    detector = train(IMAGES, config=config("robust"), iterations=10)
    unseen = [kind for kind in NEGATIVES if kind not in asked]
    assert len(unseen) == 7
    assert used["training"] and all(kinds == met for kinds in used["training"])
    assert used["polarity"] == [unseen, unseen]  # once in each fold
    assert detector.training["negatives"] == met
    assert detector.training["looks_normal"] == [
        kind for kind in preset("robust").training.discrimination.kinds if kind not in met
    ]


def test_kinds_are_tried_and_faults_planted_in_held_out_images(trainings, monkeypatch):
    tried = {}

    def spying(name, position):
        original = getattr(calibrating, name)

        def spy(*given):
            tried[name] = numbers(given[position])
            return original(*given)

        monkeypatch.setattr(calibrating, name, spy)

    spying("useful_kinds", 1), spying("planted", 0)
    train(IMAGES, config=config("robust"), iterations=10)
    held_out = set(trainings[0].plan.images.split.folds[0].held_out.tolist())
    assert tried["useful_kinds"] == held_out
    assert tried["planted"] and tried["planted"] <= held_out


# ---- arguments ----


def test_progress_is_shown_on_standard_error_and_only_if_asked_for(capsys, monkeypatch):
    monkeypatch.setattr("alocc.progress.PLAIN_LINE_EVERY", 0)  # seconds between two lines where there is no terminal
    alocc.train(IMAGES, config=config("article"), iterations=4, progress=True)
    shown = capsys.readouterr()
    assert "adversarial 4/4" in shown.err and "r_mse" in shown.err and shown.out == ""
    alocc.train(IMAGES, config=config("article"), iterations=4)
    assert capsys.readouterr() == ("", "")


def test_progress_does_not_take_the_place_of_other_hooks(capsys):
    told = []
    hooks = Hooks(started=lambda plan, again: told.append("started"), stop_requested=lambda: told.append("asked"))
    alocc.train(IMAGES, config=config("article"), iterations=3, progress=True, hooks=hooks)
    assert told == ["started", "asked", "asked", "asked"]


@pytest.mark.parametrize("seed", [True, False, 1.0, "1"])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ConfigError, match=f"seed must be a whole number, got {seed!r}"):
        alocc.train(IMAGES, seed=seed)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "a list of 0 paths holds no image files"),
        (["a.png", "b.png"], "none of the 2 files of a list of 2 paths"),
        ([IMAGES[0], IMAGES[1, :8]], "images of different sizes"),
        (torch.zeros((40, 1, 16, 16), dtype=torch.uint8), "channels come last"),
        (torch.zeros((40, 3, 16, 16)), "channels come last"),
        (None, "holds no images"),
    ],
)
def test_what_is_no_array_of_images_is_refused(data, message):
    with pytest.raises(DataError, match=message) as refused:
        alocc.train(data, config=config("article"), iterations=2)
    assert len(str(refused.value).splitlines()) == 1


def test_a_list_of_images_is_an_array():
    scores = [
        alocc.train(data, config=config("article"), iterations=2).held_out_scores for data in (IMAGES, list(IMAGES))
    ]
    np.testing.assert_array_equal(*scores)

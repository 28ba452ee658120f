"""Marks → another threshold, and what is said of it: by hand on small numbers, and by chance on many."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ks_2samp, norm

from alocc.calibration import Calibration
from alocc.errors import ConfigError, DamagedError, DataError, RefusedError
from alocc.serving.history import CalibrationRow, History, now
from alocc.serving.recalibration import Calibrations, clopper_pearson, counts_as_normal, different


@pytest.fixture
def sqlite(tmp_path):
    history = History(tmp_path / "history.sqlite")
    history.migrate()
    yield history
    history.close()


@pytest.fixture
def calibrations(sqlite):
    return Calibrations(sqlite)


def model(scores=range(1, 10), alpha=0.1, review_alpha=None, version="0123456789ab"):
    """A model whose file was calibrated on these scores; 9 of them, as a rule, at .1: called above 9."""
    return SimpleNamespace(
        name="bolts",
        version=version,
        engine=SimpleNamespace(calibration=Calibration.of(list(scores), alpha, review_alpha), training={}),
    )


@pytest.fixture
def scored(sqlite, image_row):
    """A function that writes images with these scores, called above 9, and marks them; it gives their rows."""

    def write(*scores, mark=None, **values):
        start = sqlite.find()[2]
        rows = [
            image_row(
                **{"i": start + i, "anomaly_score": float(score), "verdict": "anomalous" if score > 9 else "normal"}
                | values
            )
            for i, score in enumerate(scores)
        ]
        sqlite.add(rows)
        return [sqlite.mark(row.id, mark) for row in rows] if mark else rows

    return write


# which images count


def test_what_counts_as_normal(image_row):
    counts = {
        (is_called, mark): counts_as_normal(image_row(mark=mark), is_called)
        for is_called in (False, True)
        for mark in (None, "false alarm", "missed", "confirmed")
    }
    assert [pair for pair, is_normal in counts.items() if is_normal] == [
        (False, None),
        (False, "false alarm"),
        (True, "false alarm"),
    ]


def test_what_was_called_is_told_by_one_alpha_whatever_each_request_asked_for(calibrations, scored):
    loaded = model(range(1, 20))  # 19 scores: 2 / 20 = .1, called above 18; at .2 above 16, at .05 above 19
    scored(*range(1, 17), verdict="normal")
    scored(17, 18, verdict="anomalous", alpha=0.2)
    scored(18.5, 18.75, verdict="normal", alpha=0.05)
    scored(18.25, verdict="anomalous", alpha=0.2, mark="confirmed")
    proposal = calibrations.propose(loaded, "recent")
    assert proposal.calibration.held_out_scores.tolist() == list(range(1, 19))
    assert (proposal.n_normals, proposal.n_left_out) == (18, 2)
    seen = calibrations.precision(loaded)
    assert (seen.n_confirmed, seen.n_false_alarms, seen.n_unmarked) == (1, 0, 2)
    assert proposal.precision_before == seen


def test_an_image_that_came_several_times_counts_once_by_its_newest_mark(image_row):
    rows = [
        image_row(1, sha256="a" * 64, name="newest"),
        image_row(2, sha256="a" * 64, name="marked", mark="missed"),
        image_row(3, sha256="a" * 64, name="marked before", mark="confirmed"),
        image_row(4, sha256="b" * 64, name="newest of b"),
        image_row(5, sha256="b" * 64, name="older of b"),
    ]
    assert [row.name for row in different(rows)] == ["marked", "newest of b"]


# thresholds by hand


def test_recent_images_alone_by_hand(calibrations, scored):
    scored(*np.arange(0, 9, 0.5))  # 0, 0.5 … 8.5: 18 images
    with pytest.raises(ConfigError, match=r"18 of the images .* count as normal, and alpha 0.05 alone needs 19"):
        calibrations.propose(model(), "recent", alpha=0.05)
    scored(12, mark="false alarm")
    proposal = calibrations.propose(model(), "recent", alpha=0.05)
    assert proposal.calibration.threshold == 12  # 1 / 20 = .05: only what exceeds all 19
    assert (proposal.n_images, proposal.n_normals, proposal.n_false_alarms, proposal.n_left_out) == (19, 19, 1, 0)
    assert calibrations.propose(model(), "recent", alpha=0.1).calibration.threshold == 8.5  # 2 / 20: one is above it
    assert proposal.present.threshold == 9


def test_added_to_the_files_own_by_hand(calibrations, scored):
    scored(10, 11, 12, mark="false alarm")
    scored(5, 6, 7, 8, 8.5, 9, 4)
    proposal = calibrations.propose(model(), "added")
    # 9 of the file, 10 of the history: 19 of them; 2 / 20 = .1, so one may be above the threshold
    assert proposal.calibration.held_out_scores.tolist() == sorted([*range(1, 10), 10, 11, 12, 5, 6, 7, 8, 8.5, 9, 4])
    assert proposal.calibration.threshold == 11
    assert proposal.verdicts == {("normal", "normal"): 7, ("anomalous", "normal"): 2, ("anomalous", "anomalous"): 1}
    assert [(one.image.anomaly_score, one.before, one.after) for one in proposal.changes] == [
        (11, "anomalous", "normal"),
        (10, "anomalous", "normal"),
    ]


def test_defective_ones_and_those_that_nobody_looked_at_are_left_out(calibrations, scored):
    scored(1, 2, 3, 4, 5, 6, 7, 8)
    scored(20, 21, 22, mark="confirmed")
    scored(9, mark="missed")
    scored(11, 12, 13, 14)
    scored(10, mark="false alarm")
    proposal = calibrations.propose(model(), "recent")
    assert proposal.calibration.held_out_scores.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 10]
    assert (proposal.n_images, proposal.n_normals, proposal.n_left_out) == (17, 9, 4)
    assert proposal.calibration.threshold == 10
    assert proposal.rate_if_left_out_are_good == 4 / 13  # 11 … 14 would be called, of 9 + 4


def test_an_image_that_came_often_counts_once(calibrations, scored):
    scored(*range(1, 9))
    scored(*[8.5] * 5, sha256="f" * 64)
    proposal = calibrations.propose(model(), "recent")
    assert (proposal.n_images, proposal.n_normals) == (13, 9)
    assert proposal.calibration.held_out_scores.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 8.5]


def test_images_of_another_model_version_or_time_do_not_count(calibrations, scored):
    scored(*range(1, 10))
    scored(100, mark="false alarm", version="another")
    scored(100, mark="false alarm", model="nuts")
    assert calibrations.propose(model(), "recent").calibration.threshold == 9
    scored(8, 7, 6)
    with pytest.raises(ConfigError, match="3 of the images"):
        calibrations.propose(model(), "recent", last=3)
    assert calibrations.propose(model(), "added", last=3).n_normals == 3


def test_nothing_to_add_is_said(calibrations, scored):
    with pytest.raises(ConfigError, match="0 of the images"):
        calibrations.propose(model(), "added")
    scored(10, 11)
    with pytest.raises(ConfigError, match=r"0 of the images .* needs 1"):
        calibrations.propose(model(), "added")


def test_alphas_that_the_images_cannot_support_are_refused(calibrations, scored):
    scored(*range(1, 10))
    with pytest.raises(ConfigError, match="needs 99"):
        calibrations.propose(model(), "recent", alpha=0.01)
    with pytest.raises(ConfigError, match="alpha must be at least"):
        calibrations.propose(model(), "added", alpha=0.01)
    with pytest.raises(ConfigError, match="review alpha must be at least alpha"):
        calibrations.propose(model(), "added", alpha=0.2, review_alpha=0.1)


def test_the_third_verdict_moves_too(calibrations, scored):
    loaded = model(review_alpha=0.3)  # called above 9; told above 7
    scored(8, 9, verdict="can't tell")
    scored(1, 2, 3, 4, 5, 6, 7)
    scored(10, mark="false alarm")
    kept = calibrations.propose(loaded, "recent")  # 1 … 10; 2 / 11 > .1: called above 10; 3 / 11 ≤ .3: told above 8
    assert (kept.calibration.threshold, kept.calibration.review_threshold) == (10, 8)
    assert kept.verdicts == {
        ("normal", "normal"): 7,
        ("can't tell", "normal"): 1,
        ("can't tell", "can't tell"): 1,
        ("anomalous", "can't tell"): 1,
    }
    assert calibrations.propose(loaded, "recent", alpha=0.4).calibration.review_alpha == 0.4
    assert calibrations.propose(loaded, "recent", review_alpha=0.5).calibration.review_alpha == 0.5


def test_at_most_fifty_changes_are_shown(calibrations, scored):
    scored(*np.linspace(10, 11, 60), mark="false alarm")
    proposal = calibrations.propose(model(), "recent")
    assert len(proposal.changes) == 50
    assert proposal.verdicts["anomalous", "normal"] == 55  # 6 / 61 ≤ .1 < 7 / 61: of 60, the five highest stay called
    assert proposal.changes[0].image.anomaly_score < 11


# applied, and taken back


def test_versions_are_kept_and_any_can_be_used_again(sqlite, calibrations, scored):
    loaded = model()
    scored(10, 11, 12, mark="false alarm")
    first = calibrations.propose(loaded, "added")
    assert calibrations.current(loaded) == (0, loaded.engine.calibration)
    assert calibrations.apply(loaded, first.digest, "added") == 1
    number, used = calibrations.current(loaded)
    assert (number, used.threshold, used.alpha) == (1, first.calibration.threshold, 0.1)
    second = calibrations.propose(loaded, "added", alpha=0.2, review_alpha=0.4)
    assert second.present.threshold == first.calibration.threshold
    assert calibrations.apply(loaded, second.digest, "added", 0.2, 0.4) == 2
    again = Calibrations(sqlite)  # after a restart
    assert again.current(loaded)[0] == 2
    assert (again.current(loaded)[1].alpha, again.current(loaded)[1].review_alpha) == (0.2, 0.4)
    for number in (1, 0, 2):
        calibrations.activate(loaded, number)
        assert calibrations.current(loaded)[0] == number
    assert [(row.number, row.active, row.n_images) for row in calibrations.versions(loaded)] == [
        (2, True, 3),
        (1, False, 3),
    ]
    with pytest.raises(ConfigError, match="no calibration 3"):
        calibrations.activate(loaded, 3)
    replaced = model(version="ba9876543210")
    assert calibrations.current(replaced) == (0, replaced.engine.calibration)  # another file begins with its own


def test_what_is_applied_is_what_was_shown(calibrations, sqlite, scored):
    loaded = model()
    scored(10, 11, 12, mark="false alarm")
    called = scored(13)[0]
    shown = calibrations.propose(loaded, "added")
    scored(*range(1, 9), 30)  # images that come meanwhile
    for other in ({"basis": "recent"}, {"alpha": 0.2}, {"last": 1}, {"digest": shown.digest[:-1] + "x"}):
        asked = {"digest": shown.digest, "basis": "added"} | other
        with pytest.raises((RefusedError, ConfigError)):
            calibrations.apply(loaded, **asked)
    for mark in ("false alarm", "confirmed"):  # the latter changes the precision alone
        sqlite.mark(called.id, mark)
        with pytest.raises(RefusedError, match="look at it again") as error:
            calibrations.apply(loaded, shown.digest, "added")
        assert error.value.status == 409
        sqlite.undo()
    assert calibrations.apply(loaded, shown.digest, "added") == 1
    assert calibrations.current(loaded)[1].held_out_scores.tolist() == shown.calibration.held_out_scores.tolist()
    with pytest.raises(RefusedError, match="look at it again"):
        calibrations.apply(loaded, shown.digest, "added")  # twice
    for nonsense in ("", "-", "x" * 50, "\0"):
        with pytest.raises(RefusedError, match="look at it again"):
            calibrations.apply(loaded, nonsense, "added")


@pytest.mark.parametrize("scores", [[], [2.0, 1.0], [1.0, np.nan]])
def test_a_damaged_calibration_is_not_used(sqlite, calibrations, scores):
    loaded = model()
    sqlite.add_calibration(
        CalibrationRow("bolts", loaded.version, 0, now(), 0.1, None, "added", 3, np.array(scores, np.float64))
    )
    with pytest.raises(DamagedError, match="calibration 1 of bolts in the history is damaged"):
        calibrations.current(loaded)
    calibrations.activate(loaded, 0)
    assert calibrations.current(loaded)[0] == 0


# figures


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        (0, 0, 0, 1),
        (0, 10, 0, 1 - 0.025 ** (1 / 10)),
        (10, 10, 0.025 ** (1 / 10), 1),
        (1, 1, 0.025, 1),
        (1, 2, 1 - 0.975**0.5, 0.975**0.5),  # 1 - (1 - p)² = .025, and 1 - p² = .025
        (5, 10, 0.1871, 0.8129),  # published tables
        (8, 10, 0.4439, 0.9748),
    ],
)
def test_the_interval_of_clopper_and_pearson(count, n, low, high):
    assert clopper_pearson(count, n) == pytest.approx((low, high), abs=5e-5)


def test_precision_by_hand(calibrations, scored):
    loaded = model()
    assert calibrations.precision(loaded).value is None
    scored(20, 21, 22, mark="confirmed")
    scored(10, mark="false alarm")
    scored(11, 12)
    scored(8, mark="missed")
    scored(1, 2)
    scored(20.5, mark="confirmed", sha256=f"{0:064x}")  # the first one again
    scored(8, mark="confirmed", verdict="can't tell")
    seen = calibrations.precision(loaded)
    assert (seen.n_confirmed, seen.n_false_alarms, seen.n_unmarked, seen.value) == (3, 1, 2, 0.75)
    assert (seen.low, seen.high) == pytest.approx(clopper_pearson(3, 4))


def test_precision_of_a_proposal_by_hand(calibrations, scored):
    scored(*range(1, 9))
    scored(10, 11, mark="false alarm")
    scored(20, 21, 22, mark="confirmed")
    scored(10.5, mark="confirmed")
    scored(9, mark="missed")
    scored(30)
    proposal = calibrations.propose(model(), "recent")  # of 1 … 8, 10, 11: called above 11
    before, after = proposal.precision_before, proposal.precision
    assert (before.n_confirmed, before.n_false_alarms, before.n_unmarked) == (4, 2, 1)
    assert (after.n_confirmed, after.n_false_alarms, after.n_unmarked) == (3, 0, 1)
    assert after.value == 1
    assert after.low == pytest.approx(0.025 ** (1 / 3))


def test_counts_at_other_alphas_by_hand(calibrations, scored):
    scored(*np.arange(0.5, 11))  # 0.5 … 10.5: one each between the file's scores
    before, after = calibrations.counts_at(model(), 0.2, 0.4, 100)
    assert before == {"normal": 9, "can't tell": 0, "anomalous": 2}
    assert after == {"normal": 6, "can't tell": 2, "anomalous": 3}  # above 8; above 6
    assert calibrations.counts_at(model(), None, None, 2)[0] == {"normal": 0, "can't tell": 0, "anomalous": 2}
    with pytest.raises(ConfigError, match="alpha must be at least"):
        calibrations.counts_at(model(), 0.05, None, 100)


def test_drift_window_by_window(sqlite, calibrations, scored, image_row):
    rng = np.random.default_rng(0)
    loaded = model(rng.normal(size=500), 0.01)
    scored(*rng.normal(size=100))
    scored(*(rng.normal(size=100) + 3))
    rows = sqlite.last("bolts", 200)
    found = calibrations.drift(loaded, rows, 100)
    usual, moved = found.windows
    assert (usual.has_drifted, moved.has_drifted, found.has_drifted) == (False, True, True)
    assert usual.first == rows[-1].time.isoformat()
    assert moved.last == rows[0].time.isoformat()
    p_values = loaded.engine.calibration.p_values(np.array([row.anomaly_score for row in rows[:100]]))
    assert moved.mean_p_value == pytest.approx(p_values.mean())
    assert moved.share_of_anomalies == pytest.approx((p_values <= 0.01).mean())
    with pytest.raises(DataError, match="too few"):
        calibrations.drift(loaded, rows[:9], 100)
    moved_too = np.sort(rng.normal(size=500) + 3)
    sqlite.add_calibration(CalibrationRow("bolts", loaded.version, 0, now(), 0.01, None, "recent", 500, moved_too))
    again = Calibrations(sqlite)
    assert not again.drift(loaded, rows[:100], 100).has_drifted  # against the calibration in use


def test_folds_excuse_a_difference_only_while_their_networks_scored_the_reference(sqlite, scored):
    scores = np.random.default_rng(0).normal(size=200)
    loaded = model(scores, 0.01)
    loaded.engine.training = {"n_folds": 4}
    scored(*(scores[:100] + 0.3))
    rows = sqlite.last("bolts", 100)
    p_same = {}
    for basis in ("added", "recent"):
        reference = np.sort(scores)
        sqlite.add_calibration(CalibrationRow("bolts", loaded.version, 0, now(), 0.01, None, basis, 200, reference))
        p_same[basis] = Calibrations(sqlite).drift(loaded, rows, 100).windows[0].p_same
    assert p_same["recent"] == pytest.approx(ks_2samp(scores[:100] + 0.3, scores).pvalue)
    assert p_same["added"] > 2 * p_same["recent"]
    assert loaded.engine.training == {"n_folds": 4}


# what marks are worth: decision 34


def rate(calibration, rng):
    """False-positive rate of a calibration on fresh images that are normal like the first ones."""
    return (calibration.p_values(rng.normal(size=400_000)) <= calibration.alpha).mean()


@pytest.mark.parametrize(("marked", "expected"), [(0.0, 0.0975), (0.5, 0.07375), (1.0, 0.05)])
def test_the_rate_after_a_recalibration_depends_on_how_many_false_alarms_were_marked(
    sqlite, calibrations, image_row, marked, expected
):
    rng = np.random.default_rng(1)
    loaded = model(np.sort(rng.normal(size=100_000)), 0.05)
    scores = rng.normal(size=8000)
    called = loaded.engine.calibration.p_values(scores) <= 0.05
    rows = [
        image_row(i, anomaly_score=score, verdict="anomalous" if is_called else "normal",
                  mark="false alarm" if is_called and rng.random() < marked else None)
        for i, (score, is_called) in enumerate(zip(scores.tolist(), called.tolist(), strict=True))
    ]  # fmt: skip
    sqlite.add(rows)
    proposal = calibrations.propose(loaded, "recent", last=8000)
    assert rate(proposal.calibration, rng) == pytest.approx(expected, abs=0.008)
    if marked == 0:
        assert proposal.rate_if_left_out_are_good == pytest.approx(expected, abs=0.008)


def test_false_alarms_alone_would_call_a_tenth_of_what_was_asked():
    rng, rates = np.random.default_rng(0), []
    for _ in range(400):
        own, new = Calibration.of(rng.normal(size=99), 0.01), rng.normal(size=1000)
        sets = [], new[new > own.threshold], new
        rates.append([norm.sf(Calibration.of([*own.held_out_scores, *more], 0.01).threshold) for more in sets])
    before, false_alarms_alone, all_normals = np.mean(rates, axis=0)
    assert (before, all_normals) == pytest.approx((0.01, 0.01), abs=0.001)
    assert false_alarms_alone == pytest.approx(0.001, abs=0.0005)

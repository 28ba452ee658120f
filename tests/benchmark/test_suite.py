"""The image sets: there, of the described kind, and the same every time."""

import numpy as np
import pytest

from alocc.benchmark import suite
from alocc.benchmark.suite import SUITE, UnavailableError, load_suite_set

QUICK = ["digits", "washers", "metal"]


@pytest.mark.parametrize("name", SUITE)
def test_set_is_what_it_says(name):
    try:
        made = load_suite_set(name)
    except UnavailableError as error:
        pytest.skip(str(error))
    about = made.about
    side = int(about.split("×")[0].split()[-1])
    assert made.train.dtype == made.test.dtype == np.uint8
    assert made.train.shape[1:3] == made.test.shape[1:3] == (side, side)
    assert made.train.ndim == (4 if "colour" in about else 3)
    assert f"{len(made.train):,} normals" in about
    assert len(made.is_anomalous) == len(made.test)
    assert made.is_anomalous.sum() > 20 and (~made.is_anomalous).sum() > 20
    trained = {image.tobytes() for image in made.train}
    assert not any(image.tobytes() in trained for image in made.test[made.is_anomalous])


@pytest.mark.parametrize("name", QUICK)
def test_set_is_the_same_every_time(name):
    one, other = load_suite_set(name), load_suite_set(name)
    assert np.array_equal(one.train, other.train) and np.array_equal(one.test, other.test)


def test_a_set_that_is_not_installed_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(suite, "CLOTHES", tmp_path)
    with pytest.raises(UnavailableError, match="dataset-fashion-mnist"):
        load_suite_set("clothes")

import os
import subprocess
import sys

import pytest

import alocc

PUBLIC = [
    "ALOCC", "AloccError", "ArtefactError", "Config", "ConfigError", "DataError", "Detector", "InputError",
    "NonFiniteLossError", "Scores", "preset", "train",
]  # fmt: skip


def test_public_names_are_these():
    assert sorted(alocc.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(alocc))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there_and_documented(name):
    thing = getattr(alocc, name)
    assert thing.__doc__
    assert thing.__name__ == name


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = alocc.nonsense


@pytest.mark.parametrize("code", ["import alocc", "import sys; sys.argv = ['alocc', '--help']; import alocc.cli.app"])
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    heavy = "{'torch', 'sklearn', 'matplotlib', 'lightning_fabric', 'PIL', 'pandas', 'scipy'}"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("code", "given", "expected"),
    [
        ("import alocc", {}, "10000"),
        ("import alocc.training.run", {}, "10000"),
        ("import sys; sys.argv = ['alocc', '--help']; import alocc.cli.app", {}, "10000"),
        ("import alocc", {"GOMP_SPINCOUNT": "7"}, "7"),
        ("import alocc", {"OMP_WAIT_POLICY": "PASSIVE"}, None),
        ("import torch, alocc", {}, None),  # too late: torch has read it
    ],
)
def test_importing_alocc_limits_how_long_threads_spin_unless_somebody_said_so(code, given, expected):
    plain = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport os\nprint(os.environ.get('GOMP_SPINCOUNT'))"],
        capture_output=True, text=True, check=True, env=plain | given,
    )  # fmt: skip
    assert done.stdout.strip().splitlines()[-1] == str(expected)

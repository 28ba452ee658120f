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


@pytest.mark.parametrize("code", ["import alocc", "import sys; sys.argv = ['alocc', '--help']; import alocc.cli"])
def test_nothing_heavy_is_loaded_before_it_is_needed(code):
    heavy = "{'torch', 'sklearn', 'matplotlib', 'lightning_fabric', 'PIL', 'pandas', 'scipy'}"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(sorted({heavy} & set(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert loaded.stdout.strip().splitlines()[-1] == "[]"

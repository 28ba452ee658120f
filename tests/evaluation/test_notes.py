"""What a run folder says of its images: followed where that is safe, asked for elsewhere."""

import pytest

from alocc.errors import DataError
from alocc.evaluation.notes import noted_data


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory, with images in parts/; a run folder, with images beside it, is elsewhere."""
    for folder in ("here/parts/good", "there/beside", "there/run", "private"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").write_bytes(b"")
    (tmp_path / "here" / "table.csv").write_text("path\n/etc/passwd\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_images_below_the_current_directory_and_beside_the_run_are_found(here):
    run = here.parent / "there" / "run"
    assert noted_data("parts", run) == "parts" and noted_data("./parts/good/", run) == "./parts/good/"
    assert noted_data("parts/**/*.png", run) == "parts/**/*.png" and noted_data("mnist", run) == "mnist"
    assert noted_data(str(here / "parts"), run) == str(here / "parts")
    assert noted_data("beside", run) == str(here.parent / "there" / "beside")
    assert noted_data("run/../beside", run) == str(here.parent / "there" / "beside")
    assert noted_data("beside/*.png", run) == str(here.parent / "there" / "beside" / "*.png")
    assert noted_data("beside", "../there/run") == str(here.parent / "there" / "beside")


@pytest.mark.parametrize(
    "noted",
    [
        *("https://example.org/parts.zip", "s3://bucket/parts", "file:///etc", "memory://parts", "//server/share"),
        *("../private", "parts/../../private", "/etc", "/", "..", "nowhere", "table.csv", "a\0b", "x" * 5_000),
        *(None, 5, ["parts"], {"a": 1}),
    ],
)
def test_all_else_is_asked_for(here, noted):
    with pytest.raises(DataError, match="give DATA on the command line"):
        noted_data(noted, here.parent / "there" / "run")


def test_what_links_lead_to_is_asked_for(here):
    (here / "link").symlink_to(here.parent / "private")
    (here / "near").symlink_to(here / "parts")
    with pytest.raises(DataError, match="give DATA"):
        noted_data("link", here.parent / "there" / "run")
    assert noted_data("near", here.parent / "there" / "run") == "near"


def test_at_the_root_of_a_system_everything_would_be_near(here, monkeypatch):
    monkeypatch.chdir("/")
    with pytest.raises(DataError, match="give DATA"):
        noted_data(str(here / "parts"), here.parent / "there" / "run")


def test_arrays_are_not_kept(here):
    with pytest.raises(DataError, match="trained on arrays"):
        noted_data("arrays", here)

"""Requests made up from OpenAPI's description, right and wrong ones: nothing fails, and answers are as described."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from stations import TOKEN, serving, small_detector

SECONDS = 20
EXCLUDED = "/v1/events"
"""Its answer has no end."""


@pytest.fixture(scope="module")
def station(tmp_path_factory):
    folder = tmp_path_factory.mktemp("station")
    (folder / "token").write_text(TOKEN)
    detector = small_detector(folder / "blobs.safetensors")
    with serving(detector, "--store", folder / "store", "--token-file", folder / "token") as station:
        station.http.headers["Authorization"] = f"Bearer {TOKEN}"
        yield station


def test_no_request_that_openapi_describes_or_forbids_makes_the_server_fail(station, tmp_path):
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{station.address}/openapi.json",
        "--header", f"Authorization: Bearer {TOKEN}", "--mode", "all", "--phases", "examples,coverage,fuzzing",
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--exclude-path", EXCLUDED, "--max-examples", "8", "--max-time", str(SECONDS), "--seed", "1", "--workers", "1",
        "--request-timeout", "20", "--no-color", "--suppress-health-check", "all", "--warnings", "off", "--no-shrink",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    tested = re.search(r"Tested:\s+(\d+)", done.stdout)
    described = station.http.get("/openapi.json").json()["paths"]
    n_described = sum(len(methods) for path, methods in described.items() if path != EXCLUDED)
    assert tested and int(tested[1]) >= n_described, done.stdout[-3000:]

"""Standard output that cannot be written is an error; a reader who has seen enough is not; SIGTERM tidies up."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
SCRIPT = """
import sys
from alocc.errors import AloccError
from alocc.streams import standard_streams
try:
    with standard_streams():
        {body}
except AloccError as error:
    print(f"error: {{error}}", file=sys.stderr)
    sys.exit(1)
"""


def start(body, stdout):
    # no PYTHONUNBUFFERED: what waits to be written is what gets lost
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    words = [sys.executable, "-c", SCRIPT.format(body=body)]
    return subprocess.Popen(words, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


@needs_full
@pytest.mark.parametrize(
    "body",
    [
        "print('short')",
        "print('long' * 100_000)",
        "[print('line') for _ in range(100_000)]",
        "print('short'); sys.exit(3)",
        "from rich.console import Console; Console().print('a table')",
    ],
)
def test_a_full_disk_is_one_line_and_code_1(body):
    with FULL.open("w") as full:
        process = start(body, full)
        assert process.communicate()[1] == "error: standard output cannot be written (No space left on device)\n"
    assert process.returncode == 1


@needs_full
def test_errors_of_other_files_are_not_taken_for_it():
    process = start("print('x'); open('/dev/full', 'wb', 0).write(b'y')", subprocess.PIPE)
    out, err = process.communicate()
    assert out == "x\n" and "OSError" in err and "standard output" not in err


@pytest.mark.parametrize("body", ["print('short')", "[print('line') for _ in range(100_000)]"])
def test_a_reader_who_has_seen_enough_is_met_with_silence(body):
    reader, writer = os.pipe()
    os.close(reader)
    process = start(body, writer)
    os.close(writer)
    assert process.communicate()[1] == "" and process.returncode == 1


def test_closed_output_is_an_error_only_if_something_is_written():
    for body, code in (("print('x')", 1), ("pass", 0)):
        words = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, SCRIPT.format(body=body)]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
        assert done.returncode == code and ("cannot be written" in done.stderr) == bool(code), done.stderr


def test_what_is_written_arrives_as_it_is():
    words = [sys.executable, "-c", SCRIPT.format(body=r"print('Größe \udcff', end='\r\n')")]
    assert subprocess.run(words, capture_output=True).stdout.decode() == "Größe \\udcff\r\n"


def test_sigterm_removes_what_is_half_written(tmp_path):
    body = f"""
        from pathlib import Path
        from alocc.storage import replacing
        with replacing(Path({str(tmp_path / "s.csv")!r})) as temporary:
            temporary.write_text("half")
            print("begun", flush=True)
            import time
            time.sleep(60)"""
    process = start(body, subprocess.PIPE)
    assert process.stdout.readline() == "begun\n" and len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[1] == ""
    assert process.returncode == 128 + signal.SIGTERM and list(tmp_path.iterdir()) == []

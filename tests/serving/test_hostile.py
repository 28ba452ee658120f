"""What hostile clients send, to a real server; docs/security.md lists it, with the answer that is expected."""

import base64
import io
import json
import os
import re
import socket
import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image
from stations import TOKEN, blobs, encoded, logged, multipart, serving, small_detector

from alocc.serving import security

DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
GOOD = encoded(blobs(1, 3)[0])
LEAKS = re.compile(r"Traceback|File \"|/tmp/|/root|/home|site-packages|\w+Error\b|sqlalchemy|pydantic|starlette", re.I)

IMPATIENT = """
import sys
from pathlib import Path
from alocc.serving import connections, server
from alocc.serving.settings import Limits, Settings

connections.HEAD_SECONDS = 1.0
limits = Limits(body_bytes=1 << 20, batch_bytes=1 << 21, body_seconds=1.0, requests=4, images=4)
model, store, prefix = sys.argv[1:]
settings = Settings(models={"blobs": Path(model)}, port=0, store=Path(store), addresses=(prefix,), limits=limits)
server.run(settings, lambda line: print(line, flush=True))
"""


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector") / "blobs.safetensors")


@pytest.fixture(scope="module")
def station(detector, tmp_path_factory):
    """`alocc serve` with a token; its client knows it."""
    folder = tmp_path_factory.mktemp("station")
    (folder / "token").write_text(f"{TOKEN}\n")
    options = ("--token-file", folder / "token", "--store", folder / "store", "--json-log", folder / "log.jsonl")
    with serving(detector, *options) as station:
        station.folder = folder
        station.http.headers["Authorization"] = f"Bearer {TOKEN}"
        yield station
        assert station.http.get("/healthz").status_code == 200  # whatever was sent, it lives
    lines = (folder / "log.jsonl").read_text()
    assert TOKEN not in lines
    assert [line for line in logged(folder / "log.jsonl") if line["event"] == "failure"] == []
    assert [line for line in logged(folder / "log.jsonl") if (line.get("status") or 0) >= 500] == []


@pytest.fixture(scope="module")
def impatient(detector, tmp_path_factory):
    """A server of the same kind, without a token, that waits a second where others wait longer."""
    folder = tmp_path_factory.mktemp("impatient")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        prefix = f"http://localhost:{nobody.getsockname()[1]}/"
        with serving(detector, folder, prefix, script=IMPATIENT) as station:
            station.prefix = prefix
            yield station
            assert station.http.get("/healthz").status_code == 200


def refused(answer, *statuses):
    """Check that an answer has one of these statuses, and one line that leaks nothing."""
    assert answer.status_code in statuses, answer.text
    assert set(answer.json()) == {"error"}
    message = answer.json()["error"]
    assert message
    assert message.isprintable()
    assert not LEAKS.search(message)
    return message


def score(station, content=GOOD, kind="image/png", query=""):
    return station.http.post(f"/v1/score{query}", content=content, headers={"Content-Type": kind})


def asks(line="GET /v1/models HTTP/1.1", *headers, body=b"", host="localhost"):
    """A request, byte by byte."""
    lines = [line, *([f"Host: {host}"] if host else []), f"Authorization: Bearer {TOKEN}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


# tokens


def test_no_token(station):
    for path in ("/v1/models", "/v1/models/blobs", "/metrics", "/openapi.json", "/v1/batches", "/v1/history", "/none"):
        answer = httpx.get(station.address + path)
        refused(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    refused(httpx.post(f"{station.address}/v1/score", content=GOOD), 401)
    assert httpx.get(f"{station.address}/healthz").status_code == 200


def test_wrong_tokens(station):
    almost = (TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "null", f"{TOKEN},{TOKEN}", "x" * 10_000, "\xff\xfe")
    for token in almost:
        authorization = f"Bearer {token}".encode("latin-1")
        refused(httpx.get(f"{station.address}/v1/models", headers={"Authorization": authorization}), 401)
    for authorization in (f"Basic {TOKEN}", TOKEN, f"Token {TOKEN}", "Bearer"):
        refused(httpx.get(f"{station.address}/v1/models", headers={"Authorization": authorization}), 401)
    assert station.status(asks(f"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer {TOKEN}")) == 401  # two of them


def test_a_token_is_compared_in_constant_time(monkeypatch):
    compared = []

    def compare(one, other):
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr(security.hmac, "compare_digest", compare)
    keys = security.Keys(TOKEN)
    assert keys.is_token(TOKEN)
    assert not keys.is_token("x")
    assert not keys.is_cookie("1.x")
    assert compared == [(32, 32)] * 3  # of hashes, so that the length says nothing either


def test_a_token_in_the_address(station):
    for query in (f"token={TOKEN}", f"access_token={TOKEN}", f"model=blobs&api_key={TOKEN}"):
        refused(httpx.get(f"{station.address}/v1/models?{query}"), 400)


def test_forged_cookies(station):
    given = httpx.post(f"{station.address}/v1/session", json={"token": TOKEN})
    header = given.headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=strict" in header
    cookie = given.cookies[security.COOKIE]
    assert TOKEN not in cookie

    def status(value, method="GET", path="/v1/models", **headers):
        headers["Cookie"] = f"{security.COOKIE}={value}"
        return httpx.request(method, station.address + path, headers=headers).status_code

    assert status(cookie) == 200
    expires, _, signature = cookie.partition(".")
    for forged in (f"{int(expires) + 9}.{signature}", f"{expires}.{'0' * 64}", TOKEN, "", "9" * 5000, f"{cookie}x"):
        assert status(forged) == 401
    assert status(cookie, "POST", "/v1/batches") == 403  # no origin: a form of another page could send it
    assert status(cookie, "POST", "/v1/batches", Origin=station.address) == 415
    refused(httpx.post(f"{station.address}/v1/session", json={"token": "x" * 30}), 401)
    refused(httpx.post(f"{station.address}/v1/session", json={"token": ["x"]}), 422)


# whom the request is for, and which page sent it


def test_another_host(station):
    """DNS rebinding: a name of the attacker's that leads to this machine."""
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "10.0.0.1",
        "localhost.",
        "0.0.0.0",
    ):
        assert station.status(asks(host=host)) == 421
    assert station.status(asks("GET /v1/models HTTP/1.1", "X-Forwarded-Host: localhost", host="evil.example")) == 421
    assert station.status(asks("GET http://localhost/v1/models HTTP/1.1", host="evil.example")) == 421
    assert station.status(asks(host="localhost:1")) == 200


def test_no_host_or_two(station):
    assert station.status(asks(host=None)) == 400
    assert station.status(asks("GET /v1/models HTTP/1.0", host=None)) == 400
    assert station.status(asks("GET /v1/models HTTP/1.1", "Host: evil.example")) == 400
    for host in ("localhost@evil.example", "localhost/evil", "local host", "localhost:x", "[::1"):
        assert station.status(asks(host=host)) == 400


def test_a_post_of_another_origin(station):
    for origin in (
        "http://evil.example",
        "null",
        "http://localhost:1",
        "file://",
        f"http://localhost:{station.port}.evil",
    ):
        refused(station.http.post("/v1/score", content=GOOD, headers={"Origin": origin}), 403)
        refused(station.http.delete("/v1/session", headers={"Origin": origin}), 403)
    own = {"Origin": station.address, "Content-Type": "image/png"}
    assert station.http.post("/v1/score", content=GOOD, headers=own).status_code == 200


def test_a_post_that_a_browser_calls_cross_site(station):
    for site in ("cross-site", "same-site"):
        refused(station.http.post("/v1/score", content=GOOD, headers={"Sec-Fetch-Site": site}), 403)
        refused(station.http.get("/v1/models", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}), 403)


def test_another_page_reads_nothing(station):
    answer = station.http.get("/v1/models", headers={"Origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    refused(station.http.options("/v1/score", headers=preflight), 403)


# HTTP itself


def test_two_content_lengths(station):
    for second in ("5", "6"):
        head = asks("POST /v1/score HTTP/1.1", "Content-Length: 5", f"Content-Length: {second}", body=b"hello")
        assert station.status(head) == 400


def test_content_length_and_transfer_encoding(station):
    smuggled = b"0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for both in (
        ("Content-Length: 6", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 6"),
    ):
        answer = station.send(asks("POST /v1/score HTTP/1.1", *both, body=smuggled))
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.count(b"HTTP/1.1") == 1


def test_lengths_and_encodings_that_are_none(station):
    for header in (
        *(f"Content-Length: {length}" for length in ("-1", "+5", "0x5", "5 5", "5,5", "9" * 30, "five")),
        *(f"Transfer-Encoding: {coding}" for coding in ("xchunked", "chunked, identity", "chunked chunked", "")),
        "Transfer-Encoding : chunked",
        "Content-Length\t: 5",
    ):
        status = station.status(
            asks("POST /v1/score HTTP/1.1", header, "Content-Type: image/png", body=b"hello"), wait=5
        )
        assert status in (400, 413, 422, None), header


def test_chunks_that_are_none(station):
    for chunk in (b"-1\r\nx\r\n", b"zz\r\nx\r\n", b"f" * 40 + b"\r\n", b"5\nhello\n0\n\n", b"2\r\nhello\r\n0\r\n\r\n"):
        head = asks("POST /v1/score HTTP/1.1", "Transfer-Encoding: chunked", "Content-Type: image/png", body=chunk)
        assert station.status(head, wait=5) in (400, 422, None), chunk


def test_headers_with_control_characters(station):
    for header in ("X: a\x00b", "X: a\x01b", "X\x00: a", "X: a\r Y: b", "X: a\n\tb", "X y: a", ": a", "\x7f: a"):
        assert station.status(asks("GET /v1/models HTTP/1.1", header), wait=5) in (400, None), header
    echoed = station.http.get("/v1/models/%0d%0aSet-Cookie:%20a=b")
    refused(echoed, 400)
    assert "set-cookie" not in echoed.headers


def test_what_is_no_http(station):
    for content in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 300, b"\x00" * 100, b"HELO evil\r\n\r\n",
        b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff\xfe\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):  # fmt: skip
        answer = station.send(content, wait=12)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b'{"error"' in answer


def test_heads_without_end(station):
    assert station.status(asks("GET /v1/models HTTP/1.1", f"X: {'x' * 70_000}")) == 431
    never_ends = b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000
    assert station.status(never_ends, pieces=4, pause=0.1, wait=5) == 431  # at once, not when it is there
    for endless in (
        asks("GET /v1/models HTTP/1.1", f"X: {'x' * 5_000_000}"),
        asks("GET /v1/models HTTP/1.1", *(f"X{i}: x" for i in range(100_000))),
        asks(f"GET /{'x' * 5_000_000} HTTP/1.1"),
    ):
        assert station.status(endless) in (400, 431, None)  # none: the answer crosses what is still sent


def test_a_websocket(station):
    upgrade = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eHh4eA==")
    assert station.status(asks("GET /v1/events2 HTTP/1.1", *upgrade)) == 404
    assert station.status(asks("GET /v1/models HTTP/1.1", *upgrade)) == 200
    assert station.status(asks("GET /v1/models HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")) == 200


def test_methods_that_nothing_answers(station):
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        refused(station.http.request(method, "/v1/score"), 405)
    assert station.status(asks("BREW /v1/score HTTP/1.1")) == 400
    assert station.status(asks("CONNECT evil.example:443 HTTP/1.1")) in (400, 404)


def test_head_and_options(station):
    for path in ("/v1/models", "/healthz", "/", "/v1/score"):
        for method in ("HEAD", "OPTIONS"):
            answer = station.http.request(method, path)
            assert answer.status_code in (200, 204, 404, 405)
            assert method != "HEAD" or not answer.content


# paths


def test_paths_that_lead_elsewhere(station):
    for path in (
        "/page/../../../../etc/passwd",
        "/page/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/page/..%2f..%2f..%2fetc/passwd",
        "/page/%252e%252e/etc/passwd",
        "/page/....//....//etc/passwd",
        "/page/..%5c..%5cetc%5cpasswd",
        "//etc/passwd",
        "/page//etc/passwd",
        "/page/%00/etc/passwd",
        "/page/index.html%00.png",
        "/page/%c0%ae%c0%ae/etc/passwd",
        "/%2e/v1/models",
    ):
        answer = station.send(asks(f"GET {path} HTTP/1.1"))
        assert answer[9:12] in (b"400", b"404"), path
        assert b"root:" not in answer


def test_names_of_models_that_lead_elsewhere(station):
    for name in (
        "..%2f..%2fetc%2fpasswd",
        "%2fetc%2fpasswd",
        "blobs%2f..%2fblobs",
        "%00",
        "a" * 5000,
        "<script>",
        "' OR 1=1",
    ):
        for rest in ("", "/report", "/curves"):
            refused(station.http.get(f"/v1/models/{name}{rest}"), 400, 404)


# bodies


def test_a_body_that_says_it_is_too_large(station):
    head = asks("POST /v1/score HTTP/1.1", "Content-Type: image/png", f"Content-Length: {1 << 40}")
    assert station.status(head) == 413
    refused(score(station, bytes((32 << 20) + 1)), 413)
    expects = asks("POST /v1/score HTTP/1.1", f"Content-Length: {1 << 40}", "Expect: 100-continue")
    assert station.send(expects).startswith(b"HTTP/1.1 413")


def test_a_body_that_is_too_large_and_does_not_say_so(impatient):
    def endless():
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
        for _ in range(1000):
            yield bytes(1 << 16)

    for kind in ("image/png", "application/json", "multipart/form-data; boundary=x"):
        answer = impatient.http.post("/v1/score", content=endless(), headers={"Content-Type": kind})
        refused(answer, 413)
    refused(impatient.http.post("/v1/batches", content=endless(), headers={"Content-Type": "application/zip"}), 413)
    refused(impatient.http.post("/v1/batches", content=endless(), headers={"Content-Type": "application/json"}), 413)


def test_a_slow_head(impatient):
    assert impatient.status(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 5, pieces=5, pause=0.1) == 408
    started = time.monotonic()
    endless = impatient.send(b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 500, pieces=500, pause=0.05)
    assert not endless or endless.startswith(b"HTTP/1.1 408")  # the answer crosses what is still sent
    assert time.monotonic() - started < 10


def test_a_slow_body(impatient):
    head = asks("POST /v1/score HTTP/1.1", "Content-Type: image/png", "Content-Length: 1000", body=b"x" * 50)
    started = time.monotonic()
    assert impatient.status(head) == 408  # the rest never comes
    assert time.monotonic() - started < 10
    chunked = asks("POST /v1/score HTTP/1.1", "Content-Type: image/png", "Transfer-Encoding: chunked")
    assert impatient.status(chunked + b"1\r\nx\r\n" * 500, pieces=40, pause=0.05) == 408  # it comes, drop by drop


def test_a_connection_that_says_nothing(impatient):
    for content in (b"", b"\r\n" * 10):
        with socket.create_connection(("127.0.0.1", impatient.port), timeout=10) as silent:
            silent.sendall(content)
            started = time.monotonic()
            assert silent.recv(1000) == b""
            assert time.monotonic() - started < 9


def test_bodies_of_other_types(station):
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "text/html",
        "application/xml",
        "image",
        "",
        "x" * 3000,
    ):
        refused(score(station, kind=kind), 415)


def test_json_of_wrong_types(station):
    good = {"name": "a", "data": base64.b64encode(GOOD).decode()}
    bodies = [
        [], None, 1, "x", {}, {"images": None}, {"images": {}}, {"images": []}, {"images": [1]}, {"images": [{}]},
        {"images": [{"name": 1, "data": "eA=="}]}, {"images": [{"name": "a", "data": 5}]},
        {"images": [{"name": "a", "data": "!!"}]}, {"images": [good], "alpha": "x"}, {"images": [good], "alpha": [0.1]},
        {"images": [good], "map": "perhaps"}, {"images": [good], "model": {"$ne": 1}}, {"images": [good], "x": 1},
        {"images": [good], "source": "batch"}, {"images": [good | {"path": "/etc/passwd"}]},
    ]  # fmt: skip
    for body in bodies:
        refused(score(station, json.dumps(body), "application/json"), 422)
    for text in (b"", b"{", b"\xff", b'{"images": [}', b"[1,", b"\x00", b'{"a":1}{"b":2}'):
        refused(score(station, text, "application/json"), 422)


def test_json_that_is_deep(station):
    for text in (b"[" * 200_000, b'{"images":' * 50_000 + b"1" + b"}" * 50_000):
        refused(score(station, text, "application/json"), 422)
        refused(station.http.post("/v1/batches", content=text, headers={"Content-Type": "application/json"}), 422)
        short = {"content": text[:4000], "headers": {"Content-Type": "application/json"}}
        refused(station.http.post("/v1/session", **short), 400, 422)


def test_numbers_that_are_none_of_a_rate(station):
    for alpha in ("NaN", "Infinity", "-Infinity", "1e999", "-0.1", "0", "1", "9" * 400, "1e-400", "true", "null_"):
        text = json.dumps({"images": [{"data": base64.b64encode(GOOD).decode()}], "alpha": 7}).replace(
            "7}", f"{alpha}}}"
        )
        refused(score(station, text.encode(), "application/json"), 422)
        refused(score(station, query=f"?alpha={alpha}"), 422)
    refused(score(station, query="?alpha=0.1&review_alpha=0.01"), 422)
    refused(score(station, query="?alpha=0.0000001"), 422)


def test_forms_that_are_none(station):
    body, kind = multipart([("images", "a.png", GOOD)])
    for content, header in (
        (body, "multipart/form-data"),
        (body, "multipart/form-data; boundary="),
        (body, f"multipart/form-data; boundary={'x' * 5000}"),
        (body, "multipart/form-data; boundary=other"),
        (body[: len(body) // 2], kind["Content-Type"]),
        (b"--xyz\r\n\r\nno name\r\n--xyz--\r\n", kind["Content-Type"]),
        (b"--xyz\r\nContent-Disposition: form-data\r\n\r\nx\r\n--xyz--\r\n", kind["Content-Type"]),
        (b"--xyz\r\n" + b"X: y\r\n" * 10_000, kind["Content-Type"]),
        (b"", kind["Content-Type"]),
        (b"--xyz--", kind["Content-Type"]),
    ):
        refused(score(station, content, header), 400, 422)
    text = b'--xyz\r\nContent-Disposition: form-data; name="images"\r\n\r\ntext\r\n--xyz--\r\n'
    refused(score(station, text, kind["Content-Type"]), 400, 422)


def test_too_many_images(station):
    for n in (65, 66, 130):
        body, headers = multipart([("images", f"{i}.png", GOOD) for i in range(n)])
        refused(score(station, body, headers["Content-Type"]), 413)
    images = [{"data": base64.b64encode(GOOD).decode()}] * 65
    refused(station.http.post("/v1/score", json={"images": images}), 413)
    body, headers = multipart([(f"f{i}", "a.png", b"") for i in range(5000)])
    refused(score(station, body, headers["Content-Type"]), 413)
    refused(score(station, re.sub(rb'; filename="[^"]*"', b"", body), headers["Content-Type"]), 400)


# names


NAMES = [
    "../../../etc/cron.d/x.png", "/etc/passwd", "C:\\\\windows\\\\x.png", "..\\\\x.png", "a/../../b.png",
    "~/.ssh/id.png", "x.png\x00.exe", "con.png", "a" * 5000 + ".png",
]  # fmt: skip


def test_names_of_images_that_lead_elsewhere(station):
    def files():
        return {path for path in station.folder.rglob("*") if "history.sqlite" not in path.name}

    before = files()
    for name in NAMES:
        body, headers = multipart([("images", name, GOOD)])
        answer = score(station, body, headers["Content-Type"])
        assert answer.status_code in (200, 400)
        if answer.status_code == 200:
            shown = answer.json()["images"][0]["name"]
            assert shown.isprintable()
            assert len(shown) <= 200
    assert files() == before
    kept = score(station, query="?name=../../x.png&keep=true")
    assert kept.status_code == 200
    time.sleep(0.5)
    assert all(re.fullmatch("images|[0-9a-f]{64}|[0-9a-f]{2}", path.name) for path in files() - before)


def test_names_of_images_that_are_html(station):
    name = "<script>alert(1)</script><img src=x onerror=alert(1)>.png"
    answer = score(station, query=f"?name={name}")
    assert answer.json()["images"][0]["name"] == name
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    broken = score(station, b"no image", query=f"?name={name}")
    assert broken.headers["content-type"] == "application/json"


def packed(members, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def batch(station, content, **query):
    return station.http.post("/v1/batches", content=content, params=query, headers={"Content-Type": "application/zip"})


def errors_of(station, content):
    """Names and errors of a zip's images, in order."""
    answer = batch(station, content)
    assert answer.status_code == 202, answer.text
    found = station.finished(answer.json()["id"])
    assert found["state"] == "done"
    table = station.http.get(f"/v1/batches/{found['id']}/results.parquet").content
    import pyarrow.parquet

    return [(row["path"], row["error"]) for row in pyarrow.parquet.read_table(io.BytesIO(table)).to_pylist()]


def test_names_of_images_that_are_formulas(station):
    names = ["=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@SUM(1).png", "\t=1.png", 'a,"b".png']
    answer = batch(station, packed([(name, GOOD) for name in names]))
    found = station.finished(answer.json()["id"])
    lines = station.http.get(f"/v1/batches/{found['id']}/results.csv").text.splitlines()[1:]
    assert len(lines) == len(names)
    assert not [line for line in lines if line.lstrip('"').startswith(tuple("=+-@\t"))]


def test_names_with_control_characters(station):
    for name in ("\u202egnp.exe.png", "\x1b[31mred.png", "a%0d%0aSet-Cookie:x.png", "\u2028.png"):
        answer = score(station, query=f"?name={quote(name, safe='%')}")
        assert answer.status_code == 200
        assert answer.json()["images"][0]["name"].isprintable()
        assert "set-cookie" not in answer.headers


# images


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, *chunks, depth=8, colour=0):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


def test_png_bombs(station):
    pixels = zlib.compress(bytes(30_000_000), 9)
    for content in (
        png(60_000, 60_000, chunk(b"IDAT", pixels)),
        png(2**31 - 1, 2**31 - 1, chunk(b"IDAT", pixels)),
        png(9_000, 9_000, chunk(b"IDAT", pixels)),
        png(0, 0, chunk(b"IDAT", pixels)),
    ):
        refused(score(station, content), 422)
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))
    assert score(station, png(16, 16, text, chunk(b"IDAT", zlib.compress(bytes(17 * 16))))).status_code in (200, 422)


def tiff(width, height, *, following=0, strips=b"x" * 100, compression=8):
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 1), (273, 4, 300),
            (277, 3, 1), (278, 4, height), (279, 4, len(strips))]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)
    return head.ljust(300, b"\0") + strips


def test_tiff_bombs(station):
    zeros = zlib.compress(bytes(30_000_000), 9)
    for content in (
        tiff(100_000, 100_000, strips=zeros),
        tiff(2**32 - 1, 2**32 - 1, strips=zeros),
        tiff(8_000, 8_000, strips=zeros),
        tiff(16, 16, following=8, strips=b"x"),  # its next page is itself
    ):
        started = time.monotonic()
        refused(score(station, content, "image/tiff"), 422)
        assert time.monotonic() - started < 10


def test_images_that_are_strips_or_films(station):
    refused(score(station, encoded(np.zeros((1, 50_000), np.uint8))), 422)
    refused(score(station, encoded(np.zeros((50_000, 1), np.uint8))), 422)
    frames = [Image.fromarray(image) for image in blobs(3, 4)]
    for kind in ("PNG", "WEBP", "TIFF", "GIF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        answer = score(station, file.getvalue())
        assert answer.status_code == (200 if kind == "TIFF" else 422)  # of several pages the first one counts


def test_what_is_no_image(station):
    whole = encoded(blobs(1, 1, (64, 64))[0], "PNG")
    for content in (
        b"x", b"\x89PNG\r\n\x1a\n", whole[: len(whole) // 2], b"\0" * 1000, os.urandom(5000), b"GIF89a",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', b"%PDF-1.4", b"%!PS-Adobe",
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
        b"RIFF\xff\xff\xff\xffWEBPVP8 ",
        b"\xff\xd8\xff\xe0" + b"x" * 100, b"BM" + b"\xff" * 60, b"PK\x03\x04", b"\x80\x04cos\nsystem\n(S'id'\ntR.",
    ):  # fmt: skip
        refused(score(station, content), 422)
    refused(score(station, b""), 422)


def test_one_broken_image_among_good_ones(station):
    body, headers = multipart([("images", "good.png", GOOD), ("images", "bad.png", b"bad"), ("images", "2.png", GOOD)])
    images = score(station, body, headers["Content-Type"]).json()["images"]
    assert [image["error"] is None for image in images] == [True, False, True]
    assert not LEAKS.search(images[1]["error"])
    assert images[0]["anomaly_score"] == images[2]["anomaly_score"]


# zips


def test_names_in_zips_that_lead_elsewhere(station):
    names = ["../../../etc/x.png", "/etc/x.png", "..\\..\\x.png", "C:\\x.png", "a/../../x.png"]
    before = set(station.folder.rglob("*"))
    found = errors_of(station, packed([(name, GOOD) for name in names]))
    assert [name for name, _ in found] == ["etc/x.png", "etc/x.png", "x.png", "x.png", "a/x.png"]
    new = {path.name for path in set(station.folder.rglob("*")) - before}
    assert all(name.startswith(("history.sqlite", "uploads")) for name in new)


def test_zips_that_unpack_to_far_more(station):
    zeros = bytes(10_000_000)
    assert "unpacks to" in refused(batch(station, packed([(f"{i}.bmp", zeros) for i in range(30)])), 422)


def test_zips_in_zips(station):
    inner = packed([("a.png", bytes(1_000_000))])
    for _ in range(5):
        inner = packed([(f"{i}.zip", inner) for i in range(10)])
    assert "no images" in refused(batch(station, inner), 422)
    found = errors_of(station, packed([("inner.zip", inner), ("inner.zip.png", inner), ("good.png", GOOD)]))
    assert [(name, error is None) for name, error in found] == [("inner.zip.png", False), ("good.png", True)]


def test_zips_of_very_many_members(station):
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 20_000_000, 0, 0)
    assert "too many members" in refused(batch(station, bytes(20_000_000) + end), 422)


def test_zips_whose_sizes_lie(station):
    content = packed([("a.png", bytes(500_000)), ("good.png", GOOD)])
    for lie in (10, 10_000_000):
        lied = content.replace(struct.pack("<L", 500_000), struct.pack("<L", lie))
        found = errors_of(station, lied)
        assert [(name, error is None) for name, error in found] == [("a.png", False), ("good.png", True)]
        assert "damaged" in found[0][1]
    huge = content.replace(struct.pack("<L", 500_000), struct.pack("<L", 2**32 - 2))
    assert "are allowed" in errors_of(station, huge)[0][1]


def test_links_and_secrets_in_zips(station):
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    found = errors_of(station, packed([(link, "/etc/passwd"), ("good.png", GOOD)]))
    assert ("a link" in found[0][1], found[1][1]) == (True, None)
    locked = bytearray(packed([("a.png", GOOD)]))
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(signature) + at] |= 1
    assert "encrypted" in errors_of(station, bytes(locked))[0][1]
    assert "deflate" in errors_of(station, packed([("a.png", GOOD)], zipfile.ZIP_LZMA))[0][1]


def test_what_is_no_zip(station):
    for content in (
        b"",
        b"x",
        GOOD,
        b"PK\x03\x04" + b"\0" * 100,
        packed([("a.png", GOOD)])[:-10],
        packed([("a.txt", b"x")]),
    ):
        refused(batch(station, content), 422)
    assert not list((station.folder / "store" / "uploads").iterdir())


# addresses


def fetch(station, *addresses):
    return station.http.post("/v1/batches", json={"addresses": list(addresses)})


def test_addresses_where_none_are_allowed(station):
    for address in ("https://example.org/a.png", "http://localhost/a.png", "file:///etc/passwd"):
        refused(fetch(station, address), 422)


def test_addresses_of_other_kinds(impatient):
    for address in (
        "file:///etc/passwd", "ftp://localhost/a", "gopher://localhost/", "data:image/png;base64,eA==", "/etc/passwd",
        "s3://bucket/a.png", "jar:http://localhost!/a", "\\\\localhost\\a", "", "x" * 3000,
    ):  # fmt: skip
        refused(fetch(impatient, address), 422)


def test_addresses_of_this_machine_and_its_network(impatient):
    port = impatient.prefix.rpartition(":")[2]
    for host in (
        "127.0.0.1",
        "169.254.169.254",
        "[::1]",
        "10.0.0.1",
        "192.168.0.1",
        "0.0.0.0",
        "metadata.google.internal",
    ):
        refused(fetch(impatient, f"http://{host}:{port}latest/meta-data/"), 422)
        refused(fetch(impatient, f"http://{host}/a.png"), 422)


def test_addresses_in_numbers_of_other_kinds(impatient):
    port = impatient.prefix.rpartition(":")[2]
    for host in ("2130706433", "0177.0.0.1", "0x7f000001", "127.1", "[::ffff:7f00:1]", "017700000001", "①②⑦.⓪.⓪.①"):
        refused(fetch(impatient, f"http://{host}:{port}a.png"), 422)


def test_addresses_that_only_look_allowed(impatient):
    allowed = impatient.prefix.rstrip("/")
    for address in (
        f"{allowed}@evil.example/a.png",
        f"http://user:password@{allowed.removeprefix('http://')}/a.png",
        f"{allowed}.evil.example/a.png",
        f"http://evil.example/{allowed}/a.png",
        f"{allowed}/../a.png",
        f"{allowed}/%2e%2e/a.png",
        f"{allowed}/a.png#b",
        f"{allowed}/a\r\nX: y",
        f"{allowed}\\@evil.example/a.png",
        allowed.replace("http", "https") + "/a.png",
    ):
        assert "password" not in refused(fetch(impatient, address), 422)


def test_a_name_that_leads_to_a_private_address(impatient):
    """It is below what the operator allowed, and its name is this machine's own."""
    started = fetch(impatient, f"{impatient.prefix}a.png")
    assert started.status_code == 202
    found = impatient.finished(started.json()["id"])
    assert (found["state"], found["verdicts"]) == ("done", {"unusable": 1})
    assert "no public address" in impatient.http.get(f"/v1/batches/{found['id']}/results.csv").text


# too much


def test_too_many_requests_at_once(impatient):
    slow = asks("POST /v1/score HTTP/1.1", "Content-Type: image/png", "Content-Length: 10", body=b"x")
    statuses = []
    threads = [threading.Thread(target=lambda: statuses.append(impatient.status(slow))) for _ in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    answer = impatient.http.get("/v1/models")
    for thread in threads:
        thread.join()
    refused(answer, 429)
    assert answer.headers["retry-after"] == "1"
    assert sorted(statuses) == [408] * 4 + [429] * 8
    assert impatient.http.get("/v1/models").status_code == 200


def test_a_client_that_does_not_read(impatient):
    """It holds no slot for as long as it likes: its answer is small, and in the system's buffers."""
    readers = [socket.create_connection(("127.0.0.1", impatient.port)) for _ in range(30)]
    for reader in readers:
        reader.sendall(asks("GET /openapi.json HTTP/1.1") * 20)
    assert impatient.http.get("/healthz").status_code in (200, 429)
    time.sleep(1)
    assert impatient.http.get("/v1/models").status_code == 200
    for reader in readers:
        reader.close()


# the list


def rows():
    """Of the table: what is sent, the answer, the test."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in cells if len(row) == 3 and "::test_" in row[2]]


def test_every_row_of_the_document_names_a_test_and_every_test_here_has_a_row():
    named = {tuple(match) for row in rows() for match in re.findall(r"`(test_\w+\.py)::(test_\w+)`", row[2])}
    assert len(rows()) >= 30
    for file, name in named:
        assert re.search(rf"^def {name}\(", (Path(__file__).parent / file).read_text(encoding="utf-8"), re.M), name
    here = set(re.findall(r"^def (test_\w+)\(", Path(__file__).read_text(encoding="utf-8"), re.M))
    assert {name for file, name in named if file == "test_hostile.py"} == here - {
        "test_every_row_of_the_document_names_a_test_and_every_test_here_has_a_row"
    }

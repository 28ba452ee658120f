"""Who may ask: the rules one by one; a real server is asked in test_hostile.py."""

import asyncio
import json
import time
from contextlib import closing
from urllib.parse import unquote

import httpx
import pytest
from starlette.datastructures import Headers

from alocc.errors import ConfigError
from alocc.serving.logs import Log
from alocc.serving.security import COOKIE, Guard, Keys, Rates, Refusal, _network, check_exposure
from alocc.serving.settings import Limits, Settings

TOKEN = "correct-horse-battery"


def settings(**options):
    return Settings(**{"models": {}, **options})


async def application(scope, receive, send):
    """Says how many bytes of body it got."""
    n, more = 0, True
    while more:
        message = await receive()
        n += len(message["body"])
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": str(n).encode()})


@pytest.fixture
def ask(tmp_path):
    """Ask a guarded application, as a browser or a program would; the answer."""

    def ask(method="GET", path="/v1/models", headers=(), content=None, app=application, **options):
        with closing(Log(tmp_path / "log.jsonl")) as log:
            return asyncio.run(one(Guard(app, settings(**options), log), method, path, dict(headers), content))

    async def one(guard, method, path, headers, content):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://localhost:8000") as to:
            return await to.request(method, path, headers=headers, content=content)

    return ask


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "--no-token"),
        ({"host": "192.168.1.5"}, "--token-file"),
        ({"host": "::"}, "--no-token"),
        ({"host": "station.example"}, "--no-token"),
        ({"token": "short"}, "at least 16"),
        ({"token": "with a blank in between"}, "without spaces"),
        ({"hosts": ("http://example.org",)}, "--allow-host"),
        ({"hosts": ("example.org:80",)}, "--allow-host"),
        ({"origins": ("example.org",)}, "--allow-origin"),
        ({"origins": ("https://example.org/",)}, "--allow-origin"),
        ({"origins": ("*",)}, "--allow-origin"),
    ],
)
def test_settings_that_would_let_in_more_than_they_say_are_refused(options, words):
    with pytest.raises(ConfigError, match=words) as error:
        check_exposure(settings(**options))
    assert "\n" not in str(error.value)


def test_what_is_not_reached_from_elsewhere_needs_no_token():
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        check_exposure(settings(host=host))
    check_exposure(settings(host="0.0.0.0"), without_token=True)
    check_exposure(settings(host="0.0.0.0", token=TOKEN, hosts=("station.example",), origins=("https://a.example",)))


@pytest.mark.parametrize(
    ("host", "options", "status"),
    [
        ("localhost", {}, 200),
        ("LOCALHOST:1234", {}, 200),
        ("127.0.0.1:8000", {}, 200),
        ("[::1]:8000", {}, 200),
        ("evil.example", {}, 421),
        ("localhost.evil.example", {}, 421),
        ("localhost.", {}, 421),
        ("10.0.0.1", {}, 421),
        ("2130706433", {}, 421),
        ("station.example", {"hosts": ("station.example",)}, 200),
        ("10.0.0.1:80", {"host": "0.0.0.0"}, 200),
        ("evil.example", {"host": "0.0.0.0"}, 421),
        ("a@localhost", {}, 400),
        ("localhost:80:80", {}, 400),
        ("localhost/x", {}, 400),
        ("", {}, 400),
    ],
)
def test_the_server_answers_to_its_own_names(ask, host, options, status):
    assert ask(headers={"Host": host}, **options).status_code == status


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("POST", {}, 200),
        ("POST", {"Origin": "http://localhost:8000"}, 200),
        ("POST", {"Origin": "https://localhost:8000"}, 200),
        ("POST", {"Origin": "http://localhost:3000"}, 403),
        ("POST", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-site"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8000"}, 200),
        ("DELETE", {"Origin": "http://evil.example"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, 403),
        ("GET", {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, 200),
        ("POST", {"Origin": "https://a.example", "Sec-Fetch-Site": "cross-site"}, 200),
    ],
)
def test_pages_of_others_may_not_ask(ask, method, headers, status):
    answer = ask(method, headers=headers, origins=("https://a.example",))
    assert answer.status_code == status
    assert ("access-control-allow-origin" in answer.headers) == (headers.get("Origin") == "https://a.example")


def test_a_link_of_another_page_leads_to_the_page_alone(ask):
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(path="/", headers=visit).status_code == 200
    assert ask("POST", "/", headers=visit).status_code == 403


def test_a_browser_may_ask_whether_an_allowed_page_may_send(ask):
    asks = {"Access-Control-Request-Method": "POST", "Origin": "https://a.example"}
    allowed = ask("OPTIONS", headers=asks, origins=("https://a.example",), token=TOKEN)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, "https://a.example")
    assert "Authorization" in allowed.headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    assert ask("OPTIONS", headers=asks, token=TOKEN).status_code == 403


def test_an_allowed_page_may_read_why_it_is_refused(ask):
    options = {"origins": ("https://a.example",), "token": TOKEN}
    refused = ask(headers={"Origin": "https://a.example"}, **options)
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
    assert refused.headers["vary"] == "Origin"
    other = ask("POST", headers={"Origin": "https://b.example"}, **options)
    assert other.status_code == 403 and "access-control-allow-origin" not in other.headers


def test_a_token_is_asked_for_but_by_the_page(ask):
    def status(authorization=None, path="/v1/models"):
        return ask(
            path=path, headers={"Authorization": authorization} if authorization else {}, token=TOKEN
        ).status_code

    assert status() == status("Bearer wrong") == status(f"Basic {TOKEN}") == status("Bearer") == 401
    assert status("Bearer \xff".encode("latin-1")) == 401
    assert status(f"Bearer {TOKEN}") == status(f"bearer {TOKEN} ") == 200
    assert status(path="/metrics") == status(path="/openapi.json") == status(path="/page") == 401
    assert [status(path=path) for path in ("/", "/page/page.js", "/healthz", "/readyz", "/v1/session")] == [200] * 5


def test_a_cookie_is_of_this_token_ends_and_changes_nothing_without_an_origin(ask, monkeypatch):
    cookie = Keys(TOKEN).new_cookie()

    def status(cookie, method="GET", **headers):
        return ask(method, headers={"Cookie": f"a=b; {COOKIE}={cookie}", **headers}, token=TOKEN).status_code

    assert status(cookie) == 200
    assert status(cookie, "POST") == 403
    assert status(cookie, "POST", Origin="http://localhost:8000") == 200
    assert status(Keys("another-token-of-16").new_cookie()) == 401
    expires, _, signature = cookie.partition(".")
    assert status(f"{int(expires) + 1}.{signature}") == status(TOKEN) == status("") == 401
    assert status(cookie, Authorization="Bearer wrong") == 401
    later = time.time() + 8 * 24 * 3600
    monkeypatch.setattr(time, "time", lambda: later)
    assert status(cookie) == 401


@pytest.mark.parametrize("query", ["token=x", "a=1&access_token=x", "API_KEY=x", "a;auth_token=x"])
def test_a_token_in_an_address_is_refused(ask, query):
    assert ask(path=f"/v1/models?{query}", token=TOKEN).status_code == 400


@pytest.mark.parametrize("path", ["//v1/models", "/page/%2e%2e/v1/models", "/page/../v1", "/a%00b", "/a\\b", "/a%0ab"])
def test_odd_paths_are_refused(path):
    guard = Guard(application, settings(), Log())
    scope = {"type": "http", "method": "GET", "path": unquote(path), "query_string": b"", "client": None}
    with pytest.raises(Refusal) as refusal:
        guard.check(scope, Headers({"host": "localhost"}))
    assert refusal.value.status == 400


def test_a_client_has_its_requests_a_second_and_no_more():
    now = 0.0
    rates = Rates(2.0, lambda: now)
    assert [rates.wait("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rates.wait("b") == 0
    now = 0.5
    assert rates.wait("a") == 0
    assert rates.wait("a") == 0.5
    assert [Rates(0).wait("a") for _ in range(100)] == [0] * 100


def test_an_ipv6_client_is_its_network():
    assert _network("2001:db8:1:2:3::4") == _network("2001:db8:1:2:ffff::1") != _network("2001:db8:1:3::1")
    assert _network("::ffff:10.0.0.1") != _network("::ffff:10.0.0.2")
    assert _network("10.0.0.1") == "10.0.0.1"


def test_the_rate_does_not_believe_x_forwarded_for():
    guard = Guard(application, settings(limits=Limits(per_second=1)), Log())

    async def several():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://localhost") as http:
            return [await http.get("/", headers={"X-Forwarded-For": f"10.1.1.{i}"}) for i in range(3)]

    answers = asyncio.run(several())
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["retry-after"] == "1"


def test_a_body_is_counted_whatever_it_says_of_itself(ask):
    async def pieces():
        for _ in range(20):
            yield b"x" * 10

    limits = Limits(body_bytes=100, batch_bytes=1000)
    assert ask("POST", content=b"x" * 100, limits=limits).text == "100"
    assert ask("POST", content=b"x" * 101, limits=limits).status_code == 413
    assert ask("POST", content=pieces(), limits=limits).status_code == 413
    assert ask("POST", "/v1/batches", content=b"x" * 1000, limits=limits).text == "1000"
    assert ask("POST", "/v1/batches", content=b"x" * 1001, limits=limits).status_code == 413
    assert ask("POST", "/v1/session", content=b"x" * 5000, token=TOKEN).status_code == 413


def test_a_refused_body_is_refused_whatever_the_application_makes_of_it(ask):
    async def deaf(scope, receive, send):
        try:
            await application(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"secret"})

    async def pieces():
        yield b"x" * 200

    answer = ask("POST", content=pieces(), limits=Limits(body_bytes=100), app=deaf)
    assert (answer.status_code, "100" in answer.json()["error"]) == (413, True)


def test_what_fails_is_one_line_to_the_client_and_a_trace_in_the_log(ask, tmp_path):
    async def broken(scope, receive, send):
        raise RuntimeError("the password is swordfish")

    answer = ask(path="/v1/models?name=private", app=broken, headers={"Authorization": f"Bearer {TOKEN}"}, token=TOKEN)
    assert answer.status_code == 500
    assert answer.headers["x-request-id"] in answer.json()["error"]
    assert "swordfish" not in answer.text
    assert "RuntimeError" not in answer.text
    whole = (tmp_path / "log.jsonl").read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["event"] for line in lines] == ["failure", "request"]
    assert {line["id"] for line in lines} == {answer.headers["x-request-id"]}
    assert "swordfish" in lines[0]["trace"]
    assert (lines[1]["method"], lines[1]["path"], lines[1]["status"]) == ("GET", "/v1/models", 500)
    assert TOKEN not in whole
    assert "private" not in whole


def test_every_answer_has_the_headers_unless_it_has_its_own(ask):
    async def own(scope, receive, send):
        headers = [(b"content-security-policy", b"sandbox")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    for answer in (ask(), ask("POST", headers={"Origin": "http://evil.example"})):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
    assert "cache-control" not in ask(path="/page/style.css").headers
    assert ask(app=own).headers.get_list("content-security-policy") == ["sandbox"]


def test_a_websocket_is_closed():
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(application, settings(), Log())({"type": "websocket"}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_no_more_requests_than_allowed_are_under_way_and_live_ones_do_not_count():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)
        await application(scope, receive, send)

    guard = Guard(slow, settings(limits=Limits(requests=2)), Log())

    async def several():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://localhost") as http:
            paths = ["/v1/events", "/v1/events", *["/v1/models"] * 4]
            return [answer.status_code for answer in await asyncio.gather(*map(http.get, paths))]

    statuses = asyncio.run(several())
    assert statuses[:2] == [200, 200]
    assert sorted(statuses[2:]) == [200, 200, 429, 429]
    assert guard.requests.taken == guard.events.taken == 0


def test_who_has_no_token_takes_nothing_from_those_who_have():
    async def slow(scope, receive, send):
        await asyncio.sleep(0.05)
        await application(scope, receive, send)

    guard = Guard(slow, settings(limits=Limits(requests=1), token=TOKEN), Log())

    async def several():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://localhost") as http:
            paths = ["/v1/session", "/page/a.js", "/v1/models", "/healthz", "/readyz"]
            known = {"Authorization": f"Bearer {TOKEN}"}
            asked = [http.get(path, headers=known if path == "/v1/models" else {}) for path in paths]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert asyncio.run(several()) == [200, 429, 200, 200, 200]

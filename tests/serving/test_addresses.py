"""Addresses that a client names: where they may lead, with a real server to lead there."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alocc.errors import ConfigError, DataError
from alocc.serving import addresses
from alocc.serving.addresses import Addresses, is_public


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers["Host"]))
        kind = self.path.rpartition("/")[2]
        if kind.startswith("to"):
            self.send_response(302)
            self.send_header("Location", self.server.targets[kind])
            self.end_headers()
            return
        if kind == "missing.png":
            self.send_error(404)
            return
        if kind.startswith("drip"):
            self.drip(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if kind == "drip_body.png" else b""))
            return
        self.send_response(200)
        if kind == "gzip.png":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if kind == "large.png":
            self.wfile.write(bytes(2000))
        elif kind == "slow.png":
            for _ in range(10):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        else:
            self.wfile.write(b"image")

    def drip(self, head):
        self.wfile.write(head)
        for _ in range(60):
            try:
                self.wfile.write(b"X")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def pages():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.asked, server.targets = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.root = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(pages):
    pages.asked.clear()
    allowed = Addresses([f"{pages.root}/good/"], private=True, most_bytes=1000)
    return lambda path: allowed.fetch(f"{pages.root}{path}")


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/parts/",  # another scheme
        "https://example.org/",
        "https://example.org/partsother/a.png",
        "https://example.org/parts/../secret/a.png",
        "https://example.org/parts/%2e%2e/secret/a.png",
        "https://example.org/parts/%252e%252e/secret/a.png",
        "https://example.org/parts/..\\secret",
        "https://example.org:8443/parts/a.png",
        "https://example.org@evil.example/parts/a.png",
        "https://user:password@example.org/parts/a.png",
        "https://example.org.evil.example/parts/a.png",
        "https://evil.example/https://example.org/parts/a.png",
        "https://example.org/parts/a.png#x",
        "https://example.org/parts/\r\nHost: evil",
        "https://exa\u217fple.org/parts/a.png",
        "https://[::1]/parts/a.png",
        "http://127.0.0.1/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/a.png",
        "http://0177.0.0.1/a.png",
        "file:///etc/passwd",
        "ftp://example.org/parts/a.png",
        "gopher://example.org/parts/",
        "//example.org/parts/a.png",
        "https:///parts/a.png",
        "https://example.org:99999/parts/a.png",
        "https://example.org:/parts@evil.example/",
        "",
        "x" * 5000,
    ],
)
def test_what_is_not_below_an_allowed_prefix_is_refused(address):
    with pytest.raises(DataError) as error:
        Addresses(["https://example.org/parts"]).check(address)
    assert "password" not in str(error.value)
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


def test_what_is_below_one_is_not():
    allowed = Addresses(["https://example.org/parts", "http://example.org:81/"])
    for address in (
        "https://example.org/parts/a.png",
        "https://EXAMPLE.org:443/parts/b/c%20d.png?version=2",
        "http://example.org:81/anything",
    ):
        allowed.check(address)
    with pytest.raises(DataError):
        Addresses([]).check("https://example.org/")


@pytest.mark.parametrize("prefix", ["example.org", "file:///data/", "https://", "https://a@b/", "https://a/../b/"])
def test_a_prefix_that_is_none_is_refused_at_once(prefix):
    with pytest.raises(ConfigError, match="--allow-address"):
        Addresses([prefix])


PRIVATE = """
    127.0.0.1 127.255.0.1 0.0.0.0 10.1.2.3 172.16.0.1 172.31.255.255 192.168.1.1 169.254.169.254 100.64.0.1 198.18.0.1
    192.0.2.1 224.0.0.1 255.255.255.255 240.0.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 fd00:ec2::254 ff02::1 fec0::1
    ::ffff:127.0.0.1 ::ffff:224.0.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1 64:ff9b::7f00:1 2002:7f00:1:: 2002:a00:1::
    2001:db8::1 ::7f00:1
"""


def test_private_addresses_are_known_in_every_spelling():
    assert [ip for ip in PRIVATE.split() if is_public(ip)] == []
    public = "93.184.216.34 8.8.8.8 172.32.0.1 2606:4700::1111 ::ffff:8.8.8.8 64:ff9b::808:808".split()
    assert [ip for ip in public if not is_public(ip)] == []


@pytest.mark.parametrize("found", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["::1"], ["169.254.169.254"], []])
def test_a_name_that_leads_to_a_private_address_is_refused_before_it_is_asked(found):
    allowed = Addresses(["https://innocent.example/"], resolver=lambda host, port: found)
    with pytest.raises(DataError, match="no public address"):
        allowed.fetch("https://innocent.example/a.png")


@pytest.mark.parametrize(
    "host", ["localhost", "2130706433", "0177.0.0.1", "0x7f.1", "127.1", "[::1]", "[::ffff:7f00:1]"]
)
def test_other_spellings_of_this_machine_are_refused_even_under_a_careless_prefix(pages, host):
    """The system's own resolver takes numbers of every kind for addresses."""
    pages.asked.clear()
    root = f"http://{host}:{pages.server_port}/"
    with pytest.raises((DataError, ConfigError)):
        Addresses([root]).fetch(f"{root}a.png")
    assert pages.asked == []


def test_a_name_is_resolved_once_and_that_address_is_asked_by_that_name(pages):
    """A name that is public when it is checked and private when it is asked (DNS rebinding) has no second chance."""
    pages.asked.clear()
    asked = []

    def resolver(host, port):
        asked.append((host, port))
        return [["127.0.0.1"], ["10.255.255.1"]][len(asked) - 1]

    root = f"http://parts.example:{pages.server_port}/"
    content = Addresses([root], private=True, resolver=resolver).fetch(f"{root}a.png?x=1")
    assert content == b"image"
    assert asked == [("parts.example", pages.server_port)]
    assert pages.asked == [("/a.png?x=1", f"parts.example:{pages.server_port}")]


def test_redirects_are_followed_only_to_where_asking_is_allowed(pages, fetch):
    pages.targets |= {
        "to_good": "/good/a.png",
        "to_file": "file:///etc/passwd",
        "to_metadata": "http://169.254.169.254/latest/meta-data/",
        "to_other": f"{pages.root}/other/a.png",
        "to_itself": "/good/to_itself",
        "to_user": f"http://user@127.0.0.1:{pages.server_port}/good/a.png",
    }
    assert fetch("/good/to_good") == b"image"
    for kind in ("to_file", "to_metadata", "to_other", "to_user"):
        pages.asked.clear()
        with pytest.raises(DataError):
            fetch(f"/good/{kind}")
        assert [path for path, _ in pages.asked] == [f"/good/{kind}"]
    with pytest.raises(DataError, match="more than 3 times"):
        fetch("/good/to_itself")


def test_a_public_name_that_leads_on_to_a_private_one_is_refused(pages, monkeypatch):
    pages.targets["to_private"] = f"http://inside.example:{pages.server_port}/a.png"
    names = {"outside.example": ["127.0.0.1"], "inside.example": ["10.0.0.1"]}
    roots = [f"http://{name}:{pages.server_port}/" for name in names]
    monkeypatch.setattr(addresses, "is_public", lambda ip: ip == "127.0.0.1")  # the only one that a test can reach
    pages.asked.clear()
    with pytest.raises(DataError, match=r"inside\.example is no public address"):
        Addresses(roots, resolver=lambda host, port: names[host]).fetch(f"{roots[0]}to_private")
    assert [path for path, _ in pages.asked] == ["/to_private"]


def test_size_time_and_compression_are_bounded(fetch, monkeypatch):
    with pytest.raises(DataError, match="more than 1,000 bytes"):
        fetch("/good/large.png")
    with pytest.raises(DataError, match="compressed"):
        fetch("/good/gzip.png")
    with pytest.raises(DataError, match="answered 404"):
        fetch("/good/missing.png")
    monkeypatch.setattr(addresses, "SECONDS", 0.2)
    with pytest.raises(DataError, match="took longer"):
        fetch("/good/slow.png")
    with pytest.raises(DataError, match=r"cannot be fetched \(ConnectError\)"):
        Addresses(["http://127.0.0.1:9/"], private=True).fetch("http://127.0.0.1:9/a.png")


@pytest.mark.parametrize("path", ["/good/drip_head.png", "/good/drip_body.png"])
def test_who_sends_a_byte_now_and_then_is_not_waited_for(fetch, monkeypatch, path):
    """Neither for a head nor for a body: each byte comes long before anybody would call it silence."""
    monkeypatch.setattr(addresses, "SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(DataError, match="took longer"):
        fetch(path)
    assert 0.2 < time.monotonic() - start < 1.5


def test_proxies_of_the_environment_are_not_asked(fetch, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert fetch("/good/a.png") == b"image"

"""Images behind addresses that a client names: only where the operator allowed it, and never in a private network.

A name is resolved once, every address that it has is checked, and the connection goes to one of those that were
checked: a name that leads elsewhere a moment later leads nowhere.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import httpx

from alocc.data.entries import visible
from alocc.errors import ConfigError, DataError

LONGEST_ADDRESS = 2_000
REDIRECTS = 3
SECONDS = 30.0
"""For one image, with all redirects, but for what the system takes to find the addresses of a name."""
SILENCE = 10.0
"""Seconds without a byte."""
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("::/96"))
"""IPv6 addresses that stand for those of IPv4 in their last 32 bits."""
Resolver = Callable[[str, int], Sequence[str]]
"""Name and port → addresses of IP."""


def resolve(host: str, port: int) -> Sequence[str]:
    """Addresses of a host, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def is_public(address: str) -> bool:
    """Whether an address of IP is one of the public network: not private, local, reserved, or a group's."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if any(ip in network for network in TRANSLATED):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast


class Addresses:
    """What fetches images, and from where it may."""

    def __init__(
        self,
        prefixes: Sequence[str],
        *,
        private: bool = False,
        most_bytes: int = 32 << 20,
        resolver: Resolver = resolve,
    ) -> None:
        """Begin.

        Args:
            prefixes: of addresses that may be fetched, such as ``https://example.org/parts/``.
            private: whether they may lie in a private network, this machine included.
            most_bytes: of one image.
            resolver: finds the addresses of a host.

        Raises:
            ConfigError: if a prefix is none.
        """
        self.private, self.most_bytes, self.resolver = private, most_bytes, resolver
        self.prefixes = []
        for prefix in prefixes:
            try:
                self.prefixes.append(_parsed(prefix))
            except DataError as error:
                raise ConfigError(f"--allow-address: {error}; give one like https://example.org/parts/") from None

    def check(self, address: str) -> None:
        """Refuse an address that is not allowed, before anything is asked of the network.

        Raises:
            DataError: if it is no address, or not below an allowed one.
        """
        origin, path = _parsed(address)
        if not any(origin == allowed and _is_below(path, folder) for allowed, folder in self.prefixes):
            raise DataError(f"{_short(address)} is not below an address that this server may fetch from")

    def fetch(self, address: str) -> bytes:
        """The bytes behind an address.

        Raises:
            DataError: if it is not allowed, leads to where nothing may be fetched from, cannot be reached, or has more
                than ``most_bytes``, or takes longer than :data:`SECONDS`.
        """
        target = address
        with (
            _Watch(SECONDS) as watch,
            httpx.Client(trust_env=False, timeout=SILENCE, follow_redirects=False) as client,
        ):
            for _ in range(REDIRECTS + 1):
                self.check(target)
                try:
                    found = self._ask(client, target, watch)
                except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
                    if not watch.is_over:
                        raise DataError(f"{_short(address)} cannot be fetched ({type(error).__name__})") from None
                if watch.is_over:  # what there is then may be half an image
                    raise DataError(f"{_short(address)} took longer than {SECONDS:.0f} seconds")
                if isinstance(found, bytes):
                    return found
                target = found
        raise DataError(f"{_short(address)} leads on more than {REDIRECTS} times")

    def _ask(self, client: httpx.Client, address: str, watch: _Watch) -> bytes | str:
        """The bytes, or the address that they are said to be at."""
        url = httpx.URL(address)
        ip = self._checked_ip(url)
        headers = {"Host": url.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"}
        extensions = {"sni_hostname": url.raw_host.decode("ascii"), "trace": watch.trace}
        request = client.build_request("GET", url.copy_with(host=ip), headers=headers, extensions=extensions)
        answer = client.send(request, stream=True)
        try:
            if answer.is_redirect:
                return str(url.join(answer.headers.get("location", "")))
            if answer.status_code != 200:
                raise DataError(f"{_short(address)} answered {answer.status_code}")
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise DataError(f"{_short(address)} is sent compressed, which was not asked for")
            content = bytearray()
            for piece in answer.iter_raw():
                content += piece
                if len(content) > self.most_bytes:
                    raise DataError(f"{_short(address)} has more than {self.most_bytes:,} bytes")
            return bytes(content)
        finally:
            answer.close()

    def _checked_ip(self, url: httpx.URL) -> str:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        found = self.resolver(url.host, port)
        if not found or not (self.private or all(map(is_public, found))):
            raise DataError(f"{url.host} is no public address; whoever started this server may add --allow-private")
        return found[0]


class _Watch:
    """Ends whatever an exchange waits for, head or body, after some seconds; a context."""

    def __init__(self, seconds: float) -> None:
        self.is_over = False
        self._connections: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Learn of a connection, as httpx tells of it."""
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            with self._lock:
                self._connections.append(info["return_value"].get_extra_info("socket"))
            if self.is_over:
                self._end()

    def _end(self) -> None:
        self.is_over = True
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # it is closed already
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # TLS says no good-bye: it might wait


def _parsed(address: str) -> tuple[tuple[str, str, int], str]:
    """Scheme, host and port; and the path, in the one spelling that is compared. A DataError if there is none."""
    if len(address) > LONGEST_ADDRESS or not address.isascii() or not address.isprintable() or " " in address:
        raise DataError(f"{_short(address)} is no address (it is too long, or has blanks or other letters than ASCII)")
    try:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        host = httpx.URL(address).host
    except (ValueError, httpx.InvalidURL):
        raise DataError(f"{_short(address)} is no address") from None
    if parts.scheme not in ("http", "https"):
        raise DataError(f"{_short(address)} does not begin with https:// or http://")
    if not host or parts.username is not None or parts.password is not None or host != (parts.hostname or "").lower():
        raise DataError(f"{_short(address)} has a user's name, or no host, in it")
    path = parts.path or "/"
    plain = unquote(unquote(path))
    if "\\" in plain or any(part in (".", "..") for part in plain.split("/")) or not plain.isprintable():
        raise DataError(f"{_short(address)} has a path that leads elsewhere")
    if parts.fragment:
        raise DataError(f"{_short(address)} has a fragment (#)")
    return (parts.scheme, host, port), path


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")


def _short(address: str) -> str:
    """What an error says of it: no user's name, no query, which may hold a key."""
    text = address.partition("?")[0].encode("ascii", "backslashreplace").decode()
    text = visible(text)
    text = text.rpartition("@")[2] if "@" in text else text
    return text if len(text) <= 200 else f"{text[:200]}…"

"""All that whoever starts the server decides."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from alocc.data.decoding import MAX_PIXELS

MIB, GIB = 1 << 20, 1 << 30
Keep = Literal["page", "suspects", "all"]
"""Images that are kept where their client does not say: the page's; those that are not called normal, too; all."""


class Limits(BaseModel):
    """What one request, one client and the server as a whole may take."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    body_bytes: int = Field(32 * MIB, ge=1)
    """Of a request, but for archives."""
    batch_bytes: int = Field(GIB, ge=1)
    """Of an archive of images, and of what it holds."""
    images: int = Field(64, ge=1)
    """Of a request."""
    pixels: int = Field(MAX_PIXELS, ge=1, le=MAX_PIXELS)
    """Of an image."""
    body_seconds: float = Field(30.0, gt=0, allow_inf_nan=False)
    """To receive a request's body in."""
    requests: int = Field(64, ge=1)
    """Under way at once."""
    queue: int = Field(256, ge=1)
    """Images that wait for an engine."""
    latency_ms: float = Field(200.0, gt=0, allow_inf_nan=False)
    """Longest wait for an engine that is accepted: a request that would wait longer is told to come again."""
    per_second: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Requests of one client; 0: any number."""


class Settings(BaseModel):
    """A server: its detectors, where it listens, what it keeps, whom it lets in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: dict[str, Path]
    """Name → run folder or detector's file, in the order in which they are listed; the first is used by default."""
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    """0: any that is free."""
    token: str | None = None
    """What a client must know; none: nothing."""
    hosts: tuple[str, ...] = ()
    """Names, besides ``host``, by which requests may call the server."""
    origins: tuple[str, ...] = ()
    """Pages of other servers whose scripts may use this one."""
    store: Path = Path("station")
    """Folder of ``history.sqlite``, ``images/`` and ``uploads/``."""
    database: str | None = None
    """SQLAlchemy's address of the history; none: SQLite in the store."""
    addresses: tuple[str, ...] = ()
    """How addresses of images must begin that a batch may name; none: no batch may name any."""
    private_addresses: bool = False
    """Whether those may lie in a private network."""
    keep: Keep = "page"
    keep_days: float = Field(30.0, gt=0)
    keep_gb: float = Field(10.0, ge=0)
    """How long, and how many gigabytes of, images and rows of the history are kept."""
    engine: Literal["torch", "onnx", "openvino"] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    alpha: float | None = None
    review_alpha: float | None = None
    """Of all models; none: each its own."""
    limits: Limits = Limits()

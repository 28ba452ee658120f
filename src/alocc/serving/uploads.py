"""The body of a request → images and options, in whichever of three forms it comes."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from alocc.config import in_words
from alocc.errors import RefusedError
from alocc.serving.images import Upload, shown_name
from alocc.serving.judging import Options
from alocc.serving.replies import ScoreOptions, ScoreRequest
from alocc.serving.settings import Limits

FIELD = "images"
"""Of a form, repeated for each image."""
TYPES = "image/*, application/octet-stream, multipart/form-data or application/json"


async def read_uploads(request: Request, limits: Limits) -> tuple[list[Upload], Options]:
    """The images of a request, and what is wanted of them.

    Raises:
        RefusedError: with the status that says what is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return await _raw(request)
    if kind == "multipart/form-data":
        return await _form(request, limits)
    if kind == "application/json":
        return await _json(request, limits)
    raise RefusedError(415, f"the body must be {TYPES}, not {kind[:80] or 'of no type'}")


async def _raw(request: Request) -> tuple[list[Upload], Options]:
    query = dict(request.query_params)
    name = query.pop("name", None)
    if not (content := await request.body()):
        raise RefusedError(422, "the body is empty; it must be an image file")
    return [Upload(shown_name(name), content)], _options(ScoreOptions, query) if query else Options()


async def _form(request: Request, limits: Limits) -> tuple[list[Upload], Options]:
    options = _options(ScoreOptions, dict(request.query_params))
    async with _parts(request, limits) as form:
        files = form.getlist(FIELD)
        _check_number(len(files), limits)
        unknown = sorted({key for key in form if key != FIELD})
        if unknown or not all(isinstance(file, UploadFile) for file in files):
            raise RefusedError(422, f'a form has files named "{FIELD}" and nothing else; options go into the address')
        found = [Upload(shown_name(file.filename), await file.read()) for file in files if isinstance(file, UploadFile)]
    return found, options


@asynccontextmanager
async def _parts(request: Request, limits: Limits) -> AsyncIterator[FormData]:
    """A form's parts, read no further than the limit; the parser has no status of its own for too many."""
    try:
        async with request.form(max_files=limits.images, max_fields=1) as form:
            yield form
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise RefusedError(413, _too_many(f"more than {limits.images}", limits)) from None
        raise


async def _json(request: Request, limits: Limits) -> tuple[list[Upload], Options]:
    if request.query_params:
        raise RefusedError(422, "with JSON, options go into the body beside the images, not into the address")
    asked = _parsed(ScoreRequest, await request.body())
    _check_number(len(asked.images), limits)
    found = []
    for i, image in enumerate(asked.images):
        try:
            content = base64.b64decode(image.data, validate=True)
        except (binascii.Error, ValueError):
            raise RefusedError(422, f"images.{i}.data is not base64") from None
        found.append(Upload(shown_name(image.name), content))
    return found, _as_options(asked)


def _too_many(n: int | str, limits: Limits) -> str:
    return f"{n} images; {limits.images} are allowed in a request, more in a batch"


def _check_number(n: int, limits: Limits) -> None:
    if n == 0:
        raise RefusedError(422, f'there are no images: give one or more, as "{FIELD}"')
    if n > limits.images:
        raise RefusedError(413, _too_many(n, limits))


def _options(model: type[ScoreOptions], values: dict[str, Any]) -> Options:
    try:
        return _as_options(model.model_validate(values))
    except ValidationError as error:
        raise RefusedError(422, problems_in_words(error.errors())) from None


def _as_options(asked: ScoreOptions) -> Options:
    return Options(asked.model, asked.alpha, asked.review_alpha, asked.map, asked.overlay, asked.keep, asked.source)


def _parsed(model: type[ScoreRequest], body: bytes) -> ScoreRequest:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RefusedError(422, problems_in_words(error.errors())) from None


def problems_in_words(problems: list[Any]) -> str:
    """What is wrong with a request, in one line: the first problem, and how many more there are."""
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))
    if first["type"] == "json_invalid":
        reason = f"it is no JSON ({first['ctx']['error']})"
    elif first["type"] == "model_attributes_type":
        reason = "it must be JSON, an object, sent as Content-Type: application/json"
    elif first["type"] == "extra_forbidden":
        reason = "there is no such option"
    elif first["type"] == "missing":
        reason = "it is missing"
    else:
        reason = in_words(first)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    text = f"{where[:80]}: {reason}{more}" if where else f"the body: {reason}{more}"
    return " ".join(text.split())


def openapi_of_score() -> dict[str, Any]:
    """What OpenAPI says of the request: FastAPI does not read it itself, to be quick."""
    properties = ScoreOptions.model_json_schema()["properties"]
    parameters = [
        {"name": name, "in": "query", "required": False, "description": schema.pop("description", ""), "schema": schema}
        for name, schema in properties.items()
    ]
    named = {"name": "name", "in": "query", "required": False, "description": "The client's name of a raw image."}
    file = {"type": "string", "format": "binary"}
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: {"type": "array", "items": file}}}
    return {
        "parameters": [*parameters, {**named, "schema": {"type": "string"}}],
        "requestBody": {
            "required": True,
            "content": {
                "image/png": {"schema": file},
                "image/jpeg": {"schema": file},
                "application/octet-stream": {"schema": file},
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": _inlined(ScoreRequest), "example": _EXAMPLE},
            },
        },
    }


_EXAMPLE = {"images": [{"name": "part-17.png", "data": "iVBORw0KGgo="}], "alpha": 0.01, "map": True}


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema with what it refers to in place."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolved(definitions[node["$ref"].rpartition("/")[2]])
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(item) for item in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = resolved(schema)
    return inlined

"""The OpenAPI document: made of the table of routes here and of the fields of the wishes."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

import vab_rt
from vab_rt.config import GenerateOptions, Tuning
from vab_rt.serve.wishes import RegenerateWish, SoundWish, fields_of

Json = dict[str, Any]
_SOUND = {"$ref": "#/components/schemas/Sound"}
_TAKE = {"candidate": "integer", "seed": "integer", "score": "number|null", "content": "string"}
_SOUND_FIELDS = {
    "id": "string",
    "object": "string",
    "status": "string",
    "progress": "integer",
    "error": "string|null",
    "created_at": "number",
    "finished_at": "number|null",
    "seed": "integer",
    "format": "string",
    "num_candidates": "integer",
    "regenerated": "object|null",
    "duration_s": "number|null",
    "sample_rate_hz": "integer|null",
    "kinds": "object",
    "warnings": "array",
    "timings_s": "object",
    "candidates": "array",
}


def document() -> Json:
    """OpenAPI 3.1."""
    sound = _fields(_SOUND_FIELDS)
    sound["properties"]["status"]["enum"] = [
        *("queued", "in_progress", "completed", "failed", "cancelled")
    ]
    sound["properties"]["candidates"]["items"] = _fields(_TAKE)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vab-rt",
            "version": vab_rt.__version__,
            "summary": "Sound for silent video.",
        },
        "paths": _paths(),
        "components": {
            "schemas": {"Sound": sound, "Error": _fields({"error": "string"})},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> Json:
    one, candidate = _path_parameter(), _parameter("candidate", {"type": "integer", "default": 1})
    other = _parameter("format", {"type": "string"}, "another than it was made in")
    body = {
        "description": "The video's bytes; none with `path`.",
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
    create = _operation("Ask for a sound.", {202: _SOUND}, 400, 403, 404, 408, 413, 429, 503, 507)
    again = _operation("Make a part of a sound anew.", {202: _SOUND}, 400, 404, 409, 429, 503)
    delete = _operation(
        "Cancel it, at the next step; or remove its files.", {200: _SOUND, 202: _SOUND}, 404
    )
    text = {"type": "string"}
    return {
        "/v1/sounds": {
            "post": create | {"parameters": _query(SoundWish), "requestBody": body},
        },
        "/v1/sounds/{id}": {
            "parameters": [one],
            "get": _operation("How far it is.", {200: _SOUND}, 404),
            "delete": delete,
        },
        "/v1/sounds/{id}/events": {
            "parameters": [one],
            "get": _operation(
                "The same, whenever it changes, until it is over: server-sent events.",
                {200: text},
                404,
                media="text/event-stream",
            ),
        },
        "/v1/sounds/{id}/content": {
            "parameters": [one],
            "get": _operation("Its file.", {200: text}, 400, 404, 409, media="*/*")
            | {"parameters": [candidate, other]},
        },
        "/v1/sounds/{id}/regenerate": {
            "parameters": [one],
            "post": again | {"parameters": _query(RegenerateWish)},
        },
        "/v1/models": {"get": _operation("The model.", {200: {"type": "object"}})},
        "/health": {"get": _operation("Whether it takes sounds.", {200: {"type": "object"}}, 503)},
        "/metrics": {
            "get": _operation("For Prometheus.", {200: text}, media="text/plain"),
        },
        "/openapi.json": {"get": _operation("This document.", {200: {"type": "object"}})},
    }


def _operation(
    summary: str, good: dict[int, Json], *bad: int, media: str = "application/json"
) -> Json:
    """good and bad: statuses; of the good with what they bring."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {
        str(status): {"description": "Done.", "content": {media: {"schema": schema}}}
        for status, schema in good.items()
    }
    for status in (*bad, 401):
        responses[str(status)] = {"description": "Refused.", "content": error}
    return {"summary": summary, "responses": responses}


def _fields(types: dict[str, str]) -> Json:
    properties: Json = {}
    for name, kinds in types.items():
        several = kinds.split("|")
        properties[name] = {"type": several if len(several) > 1 else several[0]}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _path_parameter() -> Json:
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(name: str, schema: Json, text: str = "") -> Json:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _query(kind: type[GenerateOptions]) -> list[Json]:
    """Of a wish: its fields, with types and defaults from the class, and what is said of them."""
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    said = dict(_described(kind))
    return [_parameter(name, schema[name], said.get(name, "")) for name in fields_of(kind)]


def _described(kind: type[GenerateOptions]) -> Iterator[tuple[str, str]]:
    for each in (Tuning, GenerateOptions, kind):
        body = ast.parse(inspect.getsource(each)).body[0].body  # type: ignore[attr-defined]
        for node, following in pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
                yield ast.unparse(node.target), " ".join(ast.literal_eval(following.value).split())

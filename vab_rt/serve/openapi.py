"""The OpenAPI document: made of the table of routes here and of the fields of the queries."""

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

import msgspec

import vab_rt
from vab_rt.serve.job import Status
from vab_rt.serve.queries import ContentQuery, PreviewQuery, RegenerateQuery, SoundQuery, fields_of

Json = dict[str, Any]
_SOUND = {"$ref": "#/components/schemas/Sound"}
_TEXT = {"type": "string"}
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
    "video_has_sound": "boolean|null",
    "kinds": "object",
    "warnings": "array",
    "timings_s": "object",
    "candidates": "array",
}
_STATUSES = [*get_args(Status)]
_SPECTROGRAM_FIELDS = {
    "duration_s": "number",
    "column_s": "number",
    "num_columns": "integer",
    "num_bands": "integer",
    "lowest_hz": "number",
    "highest_hz": "number",
    "floor_db": "number",
    "levels": "string",
    "onsets_s": "array",
}


def document() -> Json:
    """OpenAPI 3.1."""
    sound = _fields(_SOUND_FIELDS)
    sound["properties"]["status"]["enum"] = _STATUSES
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
            "schemas": {
                "Sound": sound,
                "Spectrogram": _fields(_SPECTROGRAM_FIELDS),
                "Error": _fields({"error": "string"}),
            },
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _paths() -> Json:
    return {
        "/v1/sounds": {"post": _create()},
        **{
            f"/v1/sounds/{{id}}{name}": {"parameters": [_path_parameter()], **operations}
            for name, operations in (_of_a_sound() | _files_of_a_sound()).items()
        },
        "/v1/models": {"get": _operation("The model.", {200: {"type": "object"}})},
        "/health": {"get": _operation("Whether it takes sounds.", {200: {"type": "object"}}, 503)},
        "/metrics": {"get": _operation("For Prometheus.", {200: _TEXT}, media="text/plain")},
        "/openapi.json": {"get": _operation("This document.", {200: {"type": "object"}})},
    }


def _create() -> Json:
    body = {
        "description": "The video's bytes; none with `path`.",
        "content": {"application/octet-stream": {"schema": _TEXT}},
    }
    create = _operation("Ask for a sound.", {202: _SOUND}, 403, 404, 408, 413, 429, 503, 507)
    return create | {"parameters": _query(SoundQuery), "requestBody": body}


def _of_a_sound() -> Json:
    event = _fields({"event": "string", "data": "string"})
    event["properties"]["event"]["enum"] = _STATUSES
    event["properties"]["data"]["description"] = "the report, as JSON"
    again = _operation(
        "Make a part of a sound anew; without start_s and end_s, all of it.",
        {202: _SOUND},
        *(404, 409, 429, 503, 507),
    )
    return {
        "": {
            "get": _operation("How far it is.", {200: _SOUND}, 404),
            "delete": _operation(
                "Cancel it, at the next step; or remove its files.", {200: _SOUND, 202: _SOUND}, 404
            ),
        },
        "/events": {
            "get": _operation(
                "The same, whenever it changes, until it is over: server-sent events.",
                {200: event},
                404,
                media="text/event-stream",
            ),
        },
        "/regenerate": {"post": again | {"parameters": _query(RegenerateQuery)}},
    }


def _files_of_a_sound() -> Json:
    content = _operation("Its file.", {200: _TEXT, 206: _TEXT}, *(404, 409, 416, 507), media="*/*")
    spectrogram = _operation(
        "What that file sounds like: dB of bands that are equally high on a logarithmic "
        "axis, the lowest first, column by column, in levels: base64 of one byte each, "
        "0 for floor_db and 255 for 0 dB; and when it strikes.",
        {200: {"$ref": "#/components/schemas/Spectrogram"}},
        *(404, 409, 507),
    )
    preview = _operation(
        "Its video, small and without sound, as browsers play it; from the time it was "
        "asked for on.",
        {200: _TEXT, 206: _TEXT},
        *(404, 416, 507),
        media="*/*",
    )
    return {
        "/content": {"get": content | {"parameters": _query(ContentQuery)}},
        "/spectrogram": {"get": spectrogram | {"parameters": _query(ContentQuery)}},
        "/preview": {"get": preview | {"parameters": _query(PreviewQuery)}},
    }


def _operation(
    summary: str, good: dict[int, Json], *bad: int, media: str = "application/json"
) -> Json:
    """good and bad: statuses, of the good with what they bring; an option that is none may be
    refused anywhere."""
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    responses = {
        str(status): {"description": "Done.", "content": {media: {"schema": schema}}}
        for status, schema in good.items()
    }
    for status in (400, *bad, 401):
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


def _query(kind: type[msgspec.Struct]) -> list[Json]:
    """The parameters of a query: its fields, with types and defaults from the class, and what is
    said of them."""
    schema = msgspec.json.schema(kind)["$defs"][kind.__name__]["properties"]
    said = dict(_described(kind))
    return [_parameter(name, _sent(schema[name]), said.get(name, "")) for name in fields_of(kind)]


def _sent(schema: Json) -> Json:
    """Nothing at all is sent for null."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    kept = {name: value for name, value in schema.items() if value is not None}
    if len(kinds) == 1:
        del kept["anyOf"]
        kept |= kinds[0]
        return kept
    return kept | {"anyOf": kinds} if kinds else kept


def _described(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    for each in reversed(kind.__mro__[:-1]):
        if not issubclass(each, msgspec.Struct) or each is msgspec.Struct:
            continue
        body = ast.parse(inspect.getsource(each)).body[0].body  # type: ignore[attr-defined]
        for node, following in pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
                yield ast.unparse(node.target), " ".join(ast.literal_eval(following.value).split())

"""The OpenAPI document of the native API, served at ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Final

import msgspec

import microreg
from microreg.codec import MAX_DEPTH
from microreg.model import Status
from microreg.rules import DEFAULT_TTL, MAX_TTL, MIN_TTL

__all__ = ["document"]

_Schema = dict[str, object]

_ABOUT: Final = (
    "Programs register their nodes, renew them before their time to live ends, look others up, and follow changes as "
    "server-sent events. See docs/reference/http.md."
)
_PROBLEMS: Final[Mapping[str, str]] = {
    "400": "The request is malformed.",
    "401": "A token is missing, or not known.",
    "403": "The token is for reading only; or a browser asks for a page of another origin.",
    "404": "No node of that name.",
    "408": "The request took too long to arrive.",
    "409": "The same client has written this node again since (Microreg-Write).",
    "413": "The body, or the record, is too large.",
    "421": "The server is not known by the name in the Host header.",
    "422": "What was sent breaks a rule.",
    "429": "Too many requests from this address.",
    "500": "The registry behind the server failed.",
    "501": "The registry behind the server cannot do that.",
    "503": "The registry behind the server is away, or the server is full. Calling again is right.",
    "504": "The registry behind the server did not answer in time.",
}
_TEXT: Final = {"type": "string"}
_OR_NULL: Final = {"type": ["string", "null"]}
_PAIRS: Final = {"type": ["object", "null"], "additionalProperties": _OR_NULL}
_PLAIN: Final = "^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$"
_EVERYWHERE: Final = ("400", "401", "403", "421", "429", "500", "501", "503", "504")


@cache
def document() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "microreg", "version": microreg.__version__, "description": _ABOUT},
            "security": [{}, {"token": []}],
            "paths": {
                "/v1/services": {"get": _list()},
                "/v1/services/{name}": {"get": _get()},
                "/v1/services/{name}/nodes/{id}": {"put": _put(), "delete": _delete()},
                "/v1/renewals": {"post": _renew()},
                "/v1/watch": {"get": _watch(), "post": _watch_many()},
            },
            "components": {
                "schemas": _schemas(),
                "responses": {status: _problem(text) for status, text in _PROBLEMS.items()},
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def _list() -> _Schema:
    answer = _object({"services": {"type": "array", "items": {"type": "string"}}})
    return _operation("list", "The names with at least one node, sorted.", {"200": _json("The names.", answer)})


def _get() -> _Schema:
    return _operation(
        "get",
        "The services of a name, one for each version, with their nodes.",
        {"200": _json("The services.", _ref("Services"))},
        "404",
        "422",
        parameters=[_path("name", "The name of the service.")],
    )


def _put() -> _Schema:
    return _operation(
        "register",
        "Register a node, or renew it. It is gone when its time to live ends.",
        {"204": {"description": "It is registered."}},
        "408",
        "409",
        "413",
        "422",
        parameters=[
            _path("name", "The name of the service.", pattern=_PLAIN),
            _path("id", "The id of the node.", pattern=_PLAIN),
            _ttl(),
            _stamp(),
        ],
        requestBody=_body(_ref("Service")),
    )


def _delete() -> _Schema:
    return _operation(
        "deregister",
        "Withdraw a node. It is no error when there is none.",
        {"204": {"description": "It is not registered."}},
        "409",
        "422",
        parameters=[_path("name", "The name of the service."), _path("id", "The id of the node."), _stamp()],
    )


def _renew() -> _Schema:
    renewal = _object(
        {
            "name": {"type": "string"},
            "id": {"type": "string"},
            "ttl": {"type": "number", "minimum": MIN_TTL, "maximum": MAX_TTL, "default": DEFAULT_TTL},
            "digest": {
                "type": "string",
                "description": "The first 32 hexadecimal digits of the SHA-256 of the body that was PUT for this node.",
            },
        },
        optional=("ttl",),
    )
    node = _object({"name": {"type": "string"}, "id": {"type": "string"}})
    return _operation(
        "renew",
        "Renew many nodes at once. Those whose record is not the one with this digest come back: PUT them again.",
        {"200": _json("What was not renewed.", _object({"unknown": {"type": "array", "items": node}}))},
        "408",
        "413",
        "422",
        requestBody=_body(_object({"renewals": {"type": "array", "items": renewal}})),
    )


def _watch() -> _Schema:
    names = {"type": "array", "items": {"type": "string"}}
    return _operation(
        "watch",
        "Follow these names, or all: server-sent events, first a snapshot and then every change.",
        {"200": _events()},
        "422",
        parameters=[
            {"name": "name", "in": "query", "schema": names, "description": "A name to follow; may be repeated."},
            {
                "name": "snapshot",
                "in": "query",
                "schema": names,
                "description": "One of the names that is to begin with a snapshot also where the others are resumed.",
            },
            _last_id(),
        ],
    )


def _watch_many() -> _Schema:
    names = {"type": "array", "items": {"type": "string"}}
    body = _object({"names": names, "snapshot": names}, optional=("names", "snapshot"))
    body["additionalProperties"] = False
    return _operation(
        "watchMany",
        "The same for a list of names that is too long for a query.",
        {"200": _events()},
        "408",
        "413",
        "422",
        parameters=[_last_id()],
        requestBody=_body(body),
    )


def _schemas() -> dict[str, object]:
    details = {"title": _TEXT, "status": {"type": "integer"}, "code": _TEXT, "detail": _TEXT}
    return {
        "Value": _value(),
        "Endpoint": _endpoint(),
        "Node": _node(),
        "Service": _service(),
        "Services": _object({"services": {"type": "array", "items": _ref("Service")}}),
        "Problem": _object(details),
    }


def _value() -> _Schema:
    values = {"type": ["array", "null"], "items": _ref("Value")}
    return {
        "type": ["object", "null"],
        "description": f"The type of a request or response: a tree of at most {MAX_DEPTH} levels.",
        "properties": {"name": _OR_NULL, "type": _OR_NULL, "values": values},
    }


def _endpoint() -> _Schema:
    value = _ref("Value")
    return {
        "type": "object",
        "properties": {"name": _OR_NULL, "request": value, "response": value, "metadata": _PAIRS},
    }


def _node() -> _Schema:
    status = {"enum": [*(str(status) for status in Status), None], "default": str(Status.PASSING)}
    address = {"type": "string", "description": "host:port, IPv6 in brackets"}
    properties = {"id": _TEXT, "address": address, "metadata": _PAIRS, "status": status}
    return _object(properties, optional=("metadata", "status"))


def _service() -> _Schema:
    properties = {
        "name": _TEXT,
        "version": _OR_NULL,
        "metadata": _PAIRS,
        "endpoints": {"type": ["array", "null"], "items": _ref("Endpoint")},
        "nodes": {"type": "array", "items": _ref("Node")},
    }
    return _object(properties, optional=("version", "metadata", "endpoints"))


def _operation(id: str, summary: str, good: _Schema, *problems: str, **more: object) -> _Schema:
    answers = {status: {"$ref": f"#/components/responses/{status}"} for status in sorted({*_EVERYWHERE, *problems})}
    return {"operationId": id, "summary": summary, "responses": {**good, **answers}, **more}


def _path(name: str, text: str, **more: object) -> _Schema:
    schema = {"type": "string", "minLength": 1, "maxLength": 255, **more}
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": text}


def _ttl() -> _Schema:
    text = f"The time to live, as 15s, 2m or a number of seconds: from 1 second to a day; else {DEFAULT_TTL:g}s."
    schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m|h|d)?$"}
    return {"name": "ttl", "in": "query", "schema": schema, "description": text}


def _stamp() -> _Schema:
    text = "`<client>-<number>`, counting up: a write that comes after one with a higher number changes nothing."
    schema = {"type": "string", "pattern": "^[!-~]{1,64}-[0-9]{1,18}$"}
    return {"name": "Microreg-Write", "in": "header", "schema": schema, "description": text}


def _last_id() -> _Schema:
    text = "The id of the last event that was received: the stream goes on after it, if the server still can."
    return {"name": "Last-Event-ID", "in": "header", "schema": {"type": "string"}, "description": text}


def _events() -> _Schema:
    return {
        "description": "Events until either side ends the stream.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": {"Microreg-Resumed": {"schema": {"enum": ["true", "false"]}}},
    }


def _problem(text: str) -> _Schema:
    return {"description": text, "content": {"application/problem+json": {"schema": _ref("Problem")}}}


def _json(text: str, schema: _Schema) -> _Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _body(schema: _Schema) -> _Schema:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _object(properties: Mapping[str, object], optional: tuple[str, ...] = ()) -> _Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def _ref(name: str) -> _Schema:
    return {"$ref": f"#/components/schemas/{name}"}

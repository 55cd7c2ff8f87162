"""The routes of the HTTP registry as a table, from the OpenAPI document that the server has at ``/openapi.json``."""

from __future__ import annotations

import json
from typing import Any

from microreg.server import openapi

__all__ = ["routes"]

_JSON = "application/json"


def routes() -> str:
    """One row for each operation, and what every one of them may answer."""
    document = json.loads(openapi.document())
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    statuses: list[set[str]] = [set(operation["responses"]) for _, operation in operations]
    everywhere = {status for status in statuses[0].intersection(*statuses) if status >= "400"}
    rows = ["| request | what it does | takes | answers |", "|---|---|---|---|"]
    for (request, operation), own in zip(operations, statuses, strict=True):
        takes = "; ".join([*_parameters(operation), *_body(operation)])
        answers = ", ".join(sorted(own - everywhere))
        rows.append(f"| `{request}` | {operation['summary']} | {takes} | {answers} |")
    others = ", ".join(sorted(everywhere))
    return "\n".join([*rows, "", f"Every request may also be answered by one of {others}."])


def _parameters(operation: dict[str, Any]) -> list[str]:
    """Those of the query, and headers; what is in the path is in the first column."""
    found: list[str] = []
    for parameter in operation.get("parameters", ()):
        mark = {"query": "?", "header": ""}.get(parameter["in"])
        if mark is not None:
            text = parameter["description"].rstrip(".")
            found.append(f"`{mark}{parameter['name']}`, {text[0].lower()}{text[1:]}")
    return found


def _body(operation: dict[str, Any]) -> list[str]:
    if "requestBody" not in operation:
        return []
    schema = operation["requestBody"]["content"][_JSON]["schema"]
    if "$ref" in schema:
        return [f"a body: a {schema['$ref'].rpartition('/')[2].lower()}"]
    return [f"a body with {', '.join(f'`{name}`' for name in schema['properties'])}"]

"""The server keeps what its OpenAPI document says, whatever is sent: schemathesis against a real process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from schemathesis.core.result import Ok

from microreg.server import openapi
from servers import microreg_server

pytestmark = pytest.mark.timeout(180)

Operation = schemathesis.APIOperation[Any, Any, Any, Any]

server = microreg_server("--max-body", "100000")
schema = schemathesis.openapi.from_dict(json.loads(openapi.document()))
# A stream does not end: tests of it are in test_server_watching.py.
operations = [each.ok() for each in schema.exclude(path="/v1/watch").get_all_operations() if isinstance(each, Ok)]
cases = [
    pytest.param(operation, mode, id=f"{operation.label} {mode.value}")
    for operation in operations
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    if operation.label != "GET /v1/services" or mode is GenerationMode.POSITIVE  # there is nothing to get wrong
]


@pytest.fixture(scope="module", autouse=True)
def _running() -> Iterator[None]:
    with server:
        yield


@pytest.mark.parametrize(("operation", "mode"), cases)
def test_every_answer_is_as_documented(operation: Operation, mode: GenerationMode) -> None:
    @settings(max_examples=30, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case[Any]) -> None:
        # Not all rules of a service can be said in a schema: 422 is a good answer too.
        case.call_and_validate(base_url=f"http://127.0.0.1:{server.port}", excluded_checks=[positive_data_acceptance])

    check()

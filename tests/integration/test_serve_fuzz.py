"""The server keeps what its OpenAPI document says, whatever is sent: schemathesis against a real process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import positive_data_acceptance
from schemathesis.core.result import Ok

from microreg.model import Status
from microreg.server import openapi
from servers import microreg_server

pytestmark = pytest.mark.timeout(180)

Operation = schemathesis.APIOperation[Any, Any, Any, Any]

SLOW = [HealthCheck.filter_too_much, HealthCheck.too_slow]

server = microreg_server("--max-body", "100000")
BASE = f"http://127.0.0.1:{server.port}"
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
    @settings(max_examples=30, suppress_health_check=SLOW)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case[Any]) -> None:
        # Not all rules of a service can be said in a schema: 422 is a good answer too.
        case.call_and_validate(base_url=BASE, excluded_checks=[positive_data_acceptance])

    check()


PUT = next(each for each in operations if each.label.startswith("PUT "))
MORE: list[list[None]] = [[], [], [None]]
METADATA: list[dict[str, str | None] | None] = [None, {}, {"zone": "a", "empty": None}]
STATUSES = st.one_of(st.sampled_from([*Status, None, "CRITICAL", "down", "draining ", ""]), st.text())


def make_agree(data: st.DataObject, case: schemathesis.Case[Any]) -> dict[str, Any]:
    """Have path and body name the same node. Drawn apart they hardly ever do; and most addresses are none."""
    name, id = data.draw(st.sampled_from(["a", "b"])), data.draw(st.sampled_from(["x", "y"]))
    body = cast(dict[str, Any], case.body)
    case.path_parameters, case.query = {"name": name, "id": id}, {"ttl": "1h"}
    body["name"] = name
    node = body["nodes"][0] if body["nodes"] else {}
    node |= {"id": id, "address": data.draw(st.sampled_from(["10.0.0.7:80", "[::1]:8080", "h:1"]))}
    if data.draw(st.booleans()):
        node["status"] = data.draw(STATUSES)
    if data.draw(st.booleans()):
        node["metadata"] = data.draw(st.sampled_from(METADATA))
        body |= {"version": "1.0", "metadata": {}, "endpoints": data.draw(st.sampled_from([None, *MORE]))}
    body["nodes"] = [node, *data.draw(st.sampled_from(MORE))]
    return body


def stored(body: dict[str, Any]) -> dict[str, Any]:
    """What a lookup is to answer for the record that was sent."""
    [node] = body["nodes"]
    pairs = {key: value or "" for key, value in (node.get("metadata") or {}).items()}
    status = node.get("status") or str(Status.PASSING)
    shown = {} if status == str(Status.PASSING) else {"status": status}
    return {"id": node["id"], "address": node["address"], "metadata": pairs, **shown}


def test_a_record_whose_names_agree_is_stored_as_it_was_sent_or_refused() -> None:
    answers = Counter[int]()

    @settings(max_examples=50, suppress_health_check=SLOW)
    @given(case=PUT.as_strategy(generation_mode=GenerationMode.POSITIVE), data=st.data())
    def check(case: schemathesis.Case[Any], data: st.DataObject) -> None:
        body = make_agree(data, case)
        answer = case.call_and_validate(base_url=BASE, excluded_checks=[positive_data_acceptance])
        answers[answer.status_code] += 1
        if answer.status_code == 204:
            wanted = stored(body)
            found = httpx.get(f"{BASE}/v1/services/{body['name']}").json()["services"]
            assert [wanted] == [node for service in found for node in service["nodes"] if node["id"] == wanted["id"]]

    check()
    assert answers[204] and answers[422]

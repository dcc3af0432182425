"""Any request that the OpenAPI document describes, and many that it does not, are answered as it
says: by schemathesis, of a server with one finished sound."""

from collections import defaultdict

import pytest
from command import PATIENCE_S
from hypothesis import given, settings
from hypothesis.strategies import sampled_from
from media import make_video
from serving import running

pytest.importorskip("starlette", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="the extra `test` is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from schemathesis.specs.openapi.checks import positive_data_acceptance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tiny_bundle, tmp_path_factory):
    """The address of a server and the id of a sound that it has."""
    home = tmp_path_factory.mktemp("documented")
    video = make_video(home / "film.mp4", num_frames=25, with_sound=True)
    with running(tiny_bundle, home / "server") as (address, _):
        with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
            made = client.post("/v1/sounds?steps=2", content=video.read_bytes()).json()
            client.get(f"/v1/sounds/{made['id']}/events")
        yield address, made["id"]


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_answers_as_documented(served, mode):
    address, sound = served
    document = schemathesis.openapi.from_url(f"{address}/openapi.json")
    seen = defaultdict(set)
    for found in document.get_all_operations():
        operation = found.ok()
        if mode == "negative" and "parameters" not in operation.definition.raw:
            continue  # any id is one, if of no sound
        cases = operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @settings(max_examples=8)
        @given(cases, sampled_from([sound, sound, None]))
        def asked(case, known):
            if known and case.method != "DELETE" and "id" in case.path_parameters:
                case.path_parameters["id"] = known
            # Limits of numbers are not in the document: what is within the types may be refused.
            answer = case.call_and_validate(
                timeout=PATIENCE_S, excluded_checks=[positive_data_acceptance]
            )
            seen[case.method, case.path].add(answer.status_code)

        asked()
    assert {400, 404} <= set().union(*seen.values())
    if mode == "positive":
        documented = {
            (method.upper(), path)
            for path, item in document.raw_schema["paths"].items()
            for method in {"get", "post", "delete"} & set(item)
        }
        assert {200, 202} <= set().union(*seen.values())
        assert documented - set(seen) <= {("GET", "/openapi.json")}  # read already

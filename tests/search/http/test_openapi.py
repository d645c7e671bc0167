"""The OpenAPI document: it describes every path, and real answers have the form that it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from serving import Site

from vfindex.search.http.rest.api import MAX_HITS
from vfindex.search.http.server import GRACE_S
from vfindex.search.http.settings import Limits
from vfindex.storage.modalities import timed_text_modalities

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the answers: pip install jsonschema")


def resolved(document: dict[str, Any], path: str, method: str = "get") -> dict[str, Any]:
    """Return the schema of an answer, with all that it refers to."""
    content = document["paths"][f"/api/v1{path}"][method]["responses"]["200"]["content"]
    return {**content["application/json"]["schema"], "components": document["components"]}


def check(site: Site, document: dict[str, Any], path: str, asked: str) -> Any:
    answer = site.get(asked)
    assert answer.status == 200, answer.body
    jsonschema.Draft202012Validator(resolved(document, path)).validate(answer.document)
    return answer.document


def test_answers_have_the_form_that_the_document_says(site: Site) -> None:
    document = site.get("/openapi.json").document
    marked = site.post("/marks", {"clip": "v1:0", "question": "one", "grade": 2})
    saved = site.post("/saved", {"name": "x", "text": "dog"})
    jsonschema.Draft202012Validator(resolved(document, "/marks", "post")).validate(marked.document)
    jsonschema.Draft202012Validator(resolved(document, "/saved", "post")).validate(saved.document)
    assert check(site, document, "/search", "/search?q=number%203&k=5&per_video=2")["hits"][0]["matches"]
    for path, asked in (
        ("/search", f"/search?q={quote('dog -cat')}"),
        ("/similar", "/similar?clip=v1:0"),
        ("/videos", "/videos"),
        ("/videos/{fingerprint}", "/videos/v1"),
        ("/videos/{fingerprint}/transcript", "/videos/v1/transcript"),
        ("/search", "/search?q=3&relevant=v3:0&rejected=v1:0"),
        ("/videos/{fingerprint}/chapters", "/videos/v1/chapters?detect=true"),
        ("/videos/{fingerprint}/digest", "/videos/v1/digest"),
        ("/labels", "/labels"),
        ("/ask", "/ask?q=number&all=true"),
        ("/unusual", "/unusual?k=3"),
        ("/duplicates", "/duplicates"),
        ("/watches", "/watches"),
        ("/watches/news", "/watches/news?new=true"),
        ("/lists", "/lists"),
        ("/marks", "/marks"),
        ("/saved", "/saved"),
        ("/runs", "/runs"),
        ("/status", "/status"),
        ("/health", "/health"),
    ):
        check(site, document, path, asked)
    error = {"$ref": "#/components/schemas/Error", "components": document["components"]}
    jsonschema.Draft202012Validator(error).validate(site.get("/search").document)


def test_an_answer_of_another_form_is_noticed(site: Site) -> None:
    document = site.get("/openapi.json").document
    answer = site.get("/videos/v1").document
    validator = jsonschema.Draft202012Validator(resolved(document, "/videos/{fingerprint}"))
    validator.validate(answer)
    for change in ({"colour": 1}, {"state": "odd"}, {"fps": 25}, {"clips": [{}]}, {"locations": None}):
        assert not validator.is_valid({**answer, **change}), change


def test_the_document_is_valid_and_complete(site: Site) -> None:
    document = site.get("/openapi.json").document
    assert document["openapi"] == "3.1.0"
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert references == set(document["components"]["schemas"])
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    ids = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"].endswith("."), path
            assert all(param["description"] for param in operation["parameters"])
            named = {param["name"] for param in operation["parameters"] if param["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))


def test_every_parameter_is_taken_and_no_other(site: Site) -> None:
    document = site.get("/openapi.json").document
    for path, operations in document["paths"].items():
        if "get" not in operations:
            continue
        named = {param["name"] for param in operations["get"]["parameters"] if param["in"] == "query"}
        answer = site.ask(re.sub(r"\{\w+\}", "1", path) + "?colour=red").document
        assert answer["error"]["kind"] == "UnknownParameter"
        assert set(re.findall(r"\w+", answer["error"]["message"].partition("there are ")[2])) >= named


PAGE = (Path(__file__).resolve().parents[3] / "docs" / "http.md").read_text(encoding="utf-8")


def test_the_page_lists_every_endpoint_with_its_parameters(site: Site) -> None:
    document = site.get("/openapi.json").document
    rows = re.findall(r"^\| `([A-Z]+) (\S+)` \|([^|]*)\|", PAGE, re.M)
    listed = {(method.lower(), f"/api/v1{path}"): set(re.findall(r"`(\w+)`", takes)) for method, path, takes in rows}
    assert listed.keys() == {(method, path) for path, found in document["paths"].items() for method in found}
    for (method, path), named in listed.items():
        operation = document["paths"][path][method]
        taken = {param["name"] for param in operation["parameters"] if param["in"] == "query"}
        body = operation.get("requestBody", {"content": {"": {"schema": {"properties": {}}}}})["content"]
        for content in body.values():
            taken |= set(content["schema"]["properties"])
        if method == "post" and path.endswith("/search"):
            assert taken == {*listed["get", path], "image"}
        elif path.endswith("/transcript"):
            assert named - {"json", "vtt", "srt", *timed_text_modalities()} == taken
        elif (method, path) == ("post", "/api/v1/runs"):
            assert named - {"reindex", "retry"} == taken
        else:
            assert named == taken, path


def test_the_page_has_the_limits_of_the_server() -> None:
    limits = Limits()
    for words in (
        f"| address and headers | {limits.head_bytes >> 10} KiB, within {limits.head_s:g} s |",
        f"| body | {limits.body_bytes >> 10} KiB, with pictures {limits.upload_bytes >> 20} MiB, "
        f"within {limits.body_s:g} s |",
        f"| a client that reads nothing | {limits.stalled_s / 60:g} minutes;",
        f"| connections | {limits.connections};",
        f"| searches at a time | {limits.searches}, or one a core; {limits.waiting} more wait,",
        f"| a search | {limits.search_s:g} s,",
        f"| tasks at a time | {limits.tasks}; {limits.waiting_tasks} more wait |",
        f"| a task | {limits.task_s:g} s,",
        f"may ask {limits.requests_per_s:g} times a second, {limits.burst} times at once;",
        f"| hits, first ones included | {MAX_HITS:,} |",
        f"answers under way have {GRACE_S} seconds",
    ):
        assert words in " ".join(PAGE.split()), words

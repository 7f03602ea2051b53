"""The registered texts over HTTP."""

from __future__ import annotations

import json


def test_the_shipped_texts_are_listed_and_may_be_named_in_a_job(api):
    texts = {text["name"]: text for text in api.get("/v1/texts").json()["items"]}

    assert texts["evaluation-en"]["languages"] == ["en"]
    assert texts["evaluation-en"]["licence"] == "public domain or CC0-1.0"
    assert texts["evaluation-en"]["digest"].startswith("sha256:b25833e0")
    asked = {"source": "millstone-4m", "method": "gguf", "evaluation_text": texts["evaluation-en"]["uri"]}
    assert api.post("/v1/jobs", json=asked).status_code == 202


def test_a_register_that_cannot_be_used_is_said(api, source_root):
    (source_root / "texts.json").write_text(json.dumps({"texts": [{"name": "a"}]}))

    problem = api.get("/v1/texts").json()

    assert (problem["status"], problem["type"]) == (422, "/problems/TextRejected")

"""Parameter problems and where they point."""

from __future__ import annotations

import pytest

from quantmill.contract.errors import ParamsRejected
from quantmill.jobs.params import pointer, validate, validate_by_schema
from quantmill_bnb.plugin import BNB

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["bits"],
    "properties": {
        "bits": {"enum": [4, 8]},
        "damp": {"type": "number", "exclusiveMinimum": 0},
        "layers": {"type": "array", "items": {"$ref": "#/$defs/Layer"}},
    },
    "$defs": {"Layer": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
}


def problems(params, schema=SCHEMA):
    with pytest.raises(ParamsRejected) as rejected:
        validate_by_schema("awq", schema, params)
    return [(problem["pointer"], problem["code"]) for problem in rejected.value.fields["errors"]]


@pytest.mark.parametrize(
    ("steps", "text"),
    [(("params", "type"), "/params/type"), (("a/b", "c~d", 0), "/a~1b/c~0d/0"), ((), ""), (("",), "/")],
)
def test_a_pointer_escapes_its_steps(steps, text):
    assert pointer(*steps) == text


@pytest.mark.parametrize("params", [{"bits": 4}, {"bits": 8, "damp": 0.5, "layers": [{"name": "a"}]}])
def test_what_the_schema_allows_is_accepted(params):
    validate_by_schema("awq", SCHEMA, params)


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({}, [("/params/bits", "required")]),
        ({"bits": 5}, [("/params/bits", "enum")]),
        ({"bits": "4"}, [("/params/bits", "enum")]),
        ({"bits": 4, "damp": 0}, [("/params/damp", "exclusiveMinimum")]),
        ({"bits": 4, "layers": [{"name": "a"}, {}]}, [("/params/layers/1/name", "required")]),
        ({"bits": 4, "x": 1, "y": 2}, [("/params/x", "additionalProperties"), ("/params/y", "additionalProperties")]),
    ],
)
def test_what_it_does_not_allow_is_pointed_at(params, found):
    assert problems(params) == found


def test_a_schema_without_properties_refuses_every_key():
    assert problems({"x": 1}, {"additionalProperties": False}) == [("/params/x", "additionalProperties")]


def test_a_schema_that_refers_elsewhere_fetches_nothing():
    with pytest.raises(Exception, match="example"):
        validate_by_schema("awq", {"$ref": "https://schemas.example/evil.json"}, {})


@pytest.mark.parametrize(
    ("params", "pointed", "message"),
    [
        ({"skip_modules": "*.down_proj"}, "/params/skip_modules", 'Input should be a list: ["..."]'),
        ({"quant_type": "int8", "block_size": 32}, "/params", "block_size is for nf4 and fp4; int8 has one scale"),
        ({"blocksize": 64}, "/params/blocksize", "Extra inputs are not permitted"),
    ],
)
def test_a_method_s_own_model_says_what_is_wrong_in_words_for_json(params, pointed, message):
    with pytest.raises(ParamsRejected) as rejected:
        validate(BNB, params)

    [problem] = rejected.value.fields["errors"]
    assert problem["pointer"] == pointed
    assert problem["message"].startswith(message)

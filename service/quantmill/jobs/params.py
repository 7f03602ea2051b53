"""Checks a method's parameters and says where each problem is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from quantmill.contract.errors import ParamsRejected
from quantmill.contract.method import Method

Problem = dict[str, str]  # pointer, code, message


def pointer(*steps: str | int) -> str:
    """An RFC 6901 JSON pointer: pointer("params", "a/b") is "/params/a~1b"."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def validate(method: Method, params: Mapping[str, Any]) -> BaseModel:
    """The method's own parameter model. Raises ParamsRejected with one pointer per problem."""
    try:
        return method.params.model_validate(dict(params))
    except ValidationError as error:
        raise _rejected(method.name, _pydantic_problems(error)) from None


def validate_by_schema(method: str, schema: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Check against a JSON schema that a worker published. Raises ParamsRejected as `validate` does."""
    from jsonschema import Draft202012Validator
    from referencing import Registry

    registry: Registry[Any] = Registry()  # empty: a reference to another document is never fetched
    validator = Draft202012Validator(schema, registry=registry)
    problems = [problem for error in validator.iter_errors(dict(params)) for problem in _schema_problems(error)]
    if problems:
        raise _rejected(method, problems)


def _rejected(method: str, problems: Iterable[Problem]) -> ParamsRejected:
    found = list(problems)
    listed = "; ".join(f"{problem['pointer']}: {problem['message']}" for problem in found)
    return ParamsRejected(f"{method}: {listed}; `quantmill methods {method}` shows what it accepts", found)


def _pydantic_problems(error: ValidationError) -> Iterator[Problem]:
    for found in error.errors(include_url=False, include_context=False, include_input=False):
        yield {"pointer": pointer("params", *found["loc"]), "code": found["type"], "message": _message(found)}


def _message(found: Mapping[str, Any]) -> str:
    """pydantic's words, of Python's values, as a user who writes JSON needs them."""
    if found["type"] == "tuple_type":
        return 'Input should be a list: ["..."]'
    return str(found["msg"]).removeprefix("Value error, ")


def _schema_problems(error: Any) -> Iterator[Problem]:
    """One problem per offending key, where jsonschema gives one per object."""
    at = tuple(error.absolute_path)
    named = _KEYS_AT_FAULT.get(error.validator)
    for key in named(error) if named else [()]:
        yield {"pointer": pointer("params", *at, *key), "code": str(error.validator), "message": error.message}


_KEYS_AT_FAULT = {
    "additionalProperties": lambda error: [(key,) for key in sorted(set(error.instance) - _declared(error.schema))],
    "required": lambda error: [(key,) for key in error.validator_value if key not in error.instance],
}


def _declared(schema: Mapping[str, Any]) -> set[str]:
    return set(schema.get("properties", {}))

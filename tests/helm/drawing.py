"""Values drawn from the chart's schema: what a user may write as far as the schema can tell."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import jsonschema
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from helm.model.generate import schema

Schema = dict[str, Any]

FEW = 3  # keys of one map, items of one list
ASCII = st.characters(min_codepoint=33, max_codepoint=126)
NUMBERS = (0.05, 0.5, 1.0, 30.0, 120.0, 2.5e6)
PLAIN = st.sampled_from(["a", "b-1", "c.d", "Pods"])


def values() -> SearchStrategy[dict[str, Any]]:
    """A few values of a few sections. Not `extraObjects`, which may be anything, and no names of former values."""
    whole = _whole()
    sections = {name: part for name, part in whole["properties"].items() if name != "extraObjects"}
    return _map({**whole, "properties": sections}).filter(jsonschema.Draft7Validator(whole).is_valid)


@cache
def _whole() -> Schema:
    return schema()


@cache
def _defined(reference: str) -> SearchStrategy[Any]:
    return _drawn(_whole()["definitions"][reference.rpartition("/")[2]])


def _drawn(node: Schema) -> SearchStrategy[Any]:
    """What fits `node`, which has one of the forms that helm/model and Kubernetes' schemas have."""
    if "$ref" in node:
        reference = str(node["$ref"])
        return st.deferred(lambda: _defined(reference))
    if "allOf" in node:
        [only] = node["allOf"]
        return _drawn(only)
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in node:
            return st.one_of([_drawn(each) for each in node[alternatives]])
    if "const" in node:
        return st.just(node["const"])
    if "enum" in node:
        return st.sampled_from(node["enum"])
    return _KINDS[node["type"]](node)


def _map(node: Schema) -> SearchStrategy[dict[str, Any]]:
    properties = {name: part for name, part in node.get("properties", {}).items() if part.keys() - {"description"}}
    required = node.get("required", [])
    most = min(FEW, node.get("maxProperties", FEW))
    optional = sorted(properties.keys() - set(required))
    chosen = st.lists(st.sampled_from(optional), min_size=node.get("minProperties", 0), max_size=most, unique=True)
    named = st.just({})
    for key, part in _named(node):
        named = st.dictionaries(key, part, max_size=2)

    @st.composite
    def drawn(draw: st.DrawFn) -> dict[str, Any]:
        names = [*required, *(draw(chosen) if optional else [])]
        return draw(named) | {name: draw(_drawn(properties[name])) for name in names}

    return drawn()


def _named(node: Schema) -> list[tuple[SearchStrategy[str], SearchStrategy[Any]]]:
    """Keys and values of a map by name."""
    patterns = [(_matching(pattern), _drawn(part)) for pattern, part in node.get("patternProperties", {}).items()]
    free = node.get("additionalProperties")
    return patterns + ([(PLAIN, _drawn(free))] if isinstance(free, dict) else [])


def _list(node: Schema) -> SearchStrategy[list[Any]]:
    least = node.get("minItems", 0)
    return st.lists(_drawn(node["items"]), min_size=least, max_size=least + 2)


def _text(node: Schema) -> SearchStrategy[str]:
    drawn = _matching(node["pattern"]) if "pattern" in node else PLAIN
    longest, refused = node.get("maxLength", 60), node.get("not", {})
    return drawn.filter(
        lambda text: (
            len(text) <= longest
            and text != refused.get("const")
            and not ("pattern" in refused and re.search(refused["pattern"], text))
        )
    )


def _matching(pattern: str) -> SearchStrategy[str]:
    return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True, alphabet=ASCII)


def _integer(node: Schema) -> SearchStrategy[int]:
    least = node.get("minimum", node.get("exclusiveMinimum", -1) + 1)
    return st.integers(least, node.get("maximum", least + 2**40)) | st.integers(least, least + 100)


def _number(node: Schema) -> SearchStrategy[float]:
    return st.sampled_from([each for each in NUMBERS if jsonschema.Draft7Validator(node).is_valid(each)])


_KINDS = {
    "object": _map,
    "array": _list,
    "string": _text,
    "integer": _integer,
    "number": _number,
    "boolean": lambda _: st.booleans(),
    "null": lambda _: st.none(),
}

"""docs/operating-at-scale.md computes rightly: its worked examples are evaluated line by line."""

from __future__ import annotations

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from qdrant_client import models as qdrant

from connectors.qdrant_requests import to_collection

TEXT = (Path(__file__).parents[2] / "docs/operating-at-scale.md").read_text()
LINE = re.compile(r"(\w+) = (.+?)(?: = ([\d._]+))?(?:\s{2,}.*)?")
OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: Mapping[str, Callable[..., float]] = {"ceil": math.ceil, "max": max}


def value(node: ast.AST, known: Mapping[str, float]) -> float:
    """An arithmetic expression over known names; anything else is an error."""
    match node:
        case ast.Expression(body):
            return value(body, known)
        case ast.Constant(float() | int() as number):
            return number
        case ast.Name(name):
            return known[name]
        case ast.BinOp(left, op, right):
            return OPERATORS[type(op)](value(left, known), value(right, known))
        case ast.Call(ast.Name(name), arguments, []):
            return FUNCTIONS[name](*(value(argument, known) for argument in arguments))
    raise ValueError(ast.dump(node))


def lines() -> list[tuple[str, str, str | None]]:
    """(name, expression, stated result or None for an assumption) of every line."""
    blocks = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    written = "".join(block for block in blocks if " = " in block).splitlines()
    found = [LINE.fullmatch(line) for line in written]
    assert all(found)
    return [(one[1], one[2], one[3]) for one in found if one]


def test_every_result_follows() -> None:
    """Each stated result is that of its expression, to 1 %, and is what the later lines use."""
    known: dict[str, float] = {}
    checked = 0
    for name, expression, stated in lines():
        assert name not in known
        result = value(ast.parse(expression, mode="eval"), known)
        if stated is not None:
            assert result == pytest.approx(float(stated), rel=0.01), name
            checked += 1
        known[name] = result
    assert checked >= 20


def test_only_assumptions_have_no_formula() -> None:
    """A line without a stated result is a plain number."""
    for name, expression, stated in lines():
        assert (stated is None) == expression.replace("_", "").replace(".", "").isdigit(), name


def test_the_collection_made_by_hand_is_accepted() -> None:
    """The request in the page makes a collection that Syncline takes for one of its own."""
    (block,) = re.findall(r"PUT /collections/<name>\n(.*?)```", TEXT, re.DOTALL)
    request = qdrant.CreateCollection.model_validate(json.loads(block))
    ours = to_collection(384)
    for key in ("optimizers_config", "strict_mode_config"):
        wanted = ours[key].model_dump(exclude_none=True)
        assert getattr(request, key).model_dump(exclude_none=True) == wanted
    assert request.sparse_vectors is not None
    assert request.sparse_vectors["bm25"].modifier == ours["sparse_vectors_config"]["bm25"].modifier
    assert isinstance(request.vectors, dict)
    wanted = ours["vectors_config"]["dense"]
    assert (request.vectors["dense"].size, request.vectors["dense"].distance) == (
        wanted.size,
        wanted.distance,
    )
    assert request.replication_factor is not None
    assert request.write_consistency_factor == request.replication_factor // 2 + 1

"""Public names as their sources say them: read, not imported, as some import torch."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[2]
Node = ast.ClassDef | ast.FunctionDef | ast.Assign | ast.AnnAssign


@attrs.frozen(kw_only=True)
class Field:
    """A field of a class."""

    name: str
    type: str
    default: str | None
    meaning: str


@attrs.frozen(kw_only=True)
class Named:
    """A public name: what its source says."""

    name: str
    meaning: str
    signature: str | None = None
    """Of a function, or of a class that is made by arguments of its own."""
    value: str | None = None
    """Of a constant."""
    fields: tuple[Field, ...] = ()
    methods: tuple[Named, ...] = ()


def public(module: str) -> list[Named]:
    """The names in a module's ``__all__``, sorted, by what the module imports them from."""
    tree = _tree(module)
    names = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    origins = {
        alias.name: node.module or ""
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return [_named(_find(origins[name], name), name) for name in sorted(names, key=str.lower)]


def hooks(module: str) -> list[Named]:
    """The functions of a module, in its order."""
    functions = [node for node in _tree(module).body if isinstance(node, ast.FunctionDef)]
    return [_named((node, ""), node.name) for node in functions]


def _tree(module: str) -> ast.Module:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _find(module: str, name: str) -> tuple[Node, str]:
    """Where a module defines a name, and the string below it."""
    body = [*_tree(module).body, ast.Pass()]
    for node, after in pairwise(body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node, ""
        if _target(node) == name:
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            return node, _said(after)
    raise AssertionError(f"{module} does not define {name}")


def _named(found: tuple[Node, str], name: str) -> Named:
    node, below = found
    if isinstance(node, ast.FunctionDef):
        return Named(name=name, meaning=_doc(node), signature=_signature(node))
    if isinstance(node, ast.ClassDef):
        methods = tuple(_methods(node))
        made = next((one.signature for one in methods if one.name == "__init__"), None)
        others = tuple(one for one in methods if one.name != "__init__")
        fields = tuple(_fields(node))
        return Named(name=name, meaning=_doc(node), signature=made, fields=fields, methods=others)
    assert node.value is not None
    return Named(name=name, meaning=below, value=ast.unparse(node.value))


def _fields(node: ast.ClassDef) -> Iterator[Field]:
    for member, after in pairwise([*node.body, ast.Pass()]):
        name = _target(member)
        if isinstance(member, ast.AnnAssign) and name and not name.startswith("_"):
            yield Field(
                name=name,
                type=re.sub(r"^ClassVar\[(.*)\]$", r"\1", ast.unparse(member.annotation)),
                default=_default(member.value),
                meaning=_said(after),
            )


def _methods(node: ast.ClassDef) -> Iterator[Named]:
    for member in node.body:
        if not isinstance(member, ast.FunctionDef):
            continue
        if member.name.startswith("_") and member.name not in (
            "__init__",
            "__len__",
            "__getitem__",
        ):
            continue
        decorators = [ast.unparse(one) for one in member.decorator_list]
        signature = f" -> {_unquoted(member.returns)}" if "property" in decorators else None
        yield Named(
            name=member.name,
            meaning=_doc(member),
            signature=signature or _signature(member, method=True),
        )


def _default(value: ast.expr | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "attrs.field":
        given = {word.arg: word.value for word in value.keywords}
        if "factory" in given:
            return {"dict": "{}", "list": "[]"}[ast.unparse(given["factory"])]
        return ast.unparse(given["default"]) if "default" in given else None
    return ast.unparse(value)


def _signature(node: ast.FunctionDef, *, method: bool = False) -> str:
    arguments = ast.unparse(node.args)
    if method:
        arguments = arguments.removeprefix("self").removeprefix(", ")
    returns = f" -> {_unquoted(node.returns)}" if node.returns else ""
    return f"({arguments}){returns}"


def _unquoted(node: ast.expr | None) -> str:
    return ast.unparse(node).strip("'") if node is not None else "None"


def _target(node: ast.AST) -> str | None:
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else None


def _doc(node: ast.ClassDef | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _said(node: ast.AST) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return ""

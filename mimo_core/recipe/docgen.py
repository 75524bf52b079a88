"""``docs/recipe.md``: every key of a recipe, made from the classes that read it.

``python -m mimo_core.recipe.docgen > docs/recipe.md``
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import attrs
import yaml

from mimo_core.recipe.converter import plain
from mimo_core.recipe.schema import Recipe

EXAMPLE = """\
modules:
  vision:
    plugin: radio
    grid: {tp: 2, dp: 2}              # ranks 0-3
    freeze: [encoder]                 # the projector still learns
    options: {size: base, image_size: 224, max_image_size: 224}
  language:
    plugin: nemotron
    grid: {tp: 2, dp: 2, ep: 2}       # ranks 4-7
    options: {pattern: "M*ME", hidden_size: 512, attention_heads: 8, experts: 8}
data: {plugin: digits, options: {size: 32}}
train:
  iterations: 1000
  micro_batch_size: 4
  global_batch_size: 64
  sequence_length: 64
  learning_rate: 3.0e-4
  lr_warmup_iterations: 50
  precision: bf16
validation: {interval: 200, num_samples: 256}
checkpoint: {save_interval: 200}
megatron: {overlap_grad_reduce: true}
"""

_HEAD = """\
# The recipe

<!-- Made by `python -m mimo_core.recipe.docgen > docs/recipe.md`; a test compares. -->

A recipe is a YAML file. `mimo plan RECIPE` checks it and shows what it would run, without starting
anything; `mimo-pretrain RECIPE` runs it. Any key can be set on the command line of both, by its
path: `modules.vision.grid.dp=2`, `train.precision=bf16`; the value is read as YAML, and `null`
takes a key back to its default where that is `null`. An unknown key, a value of a wrong type or
sizes that do not fit each other are refused before a rank starts, all at once, each with its line.

```yaml
{example}```

`NAME` below is a module's name. Options of plugins are in the plugins' own READMEs.
"""

_NOUNS = {int: "integer", float: "number", bool: "`true` or `false`", str: "text"}


def reference() -> str:
    """The whole page."""
    parts = [_HEAD.format(example=EXAMPLE), *_sections(Recipe, "")]
    return "\n".join(parts)


def _sections(cls: type, path: str) -> Iterator[str]:
    """The section of a class, then those of the classes of its fields."""
    title = f"`{path}`" if path else "Top of the file"
    about = "" if cls is Recipe else inspect.cleandoc(cls.__doc__ or "") + "\n\n"
    rows = [
        "| " + " | ".join((f"`{field.name}`", *_cells(cls, field, path))) + " |"
        for field in attrs.fields(cls)
    ]
    head = "| key | type | default | meaning |\n|---|---|---|---|"
    yield f"## {title}\n\n{_markdown(about)}{head}\n" + "\n".join(rows) + "\n"
    for field in attrs.fields(cls):
        inner = _class_of(_types(cls)[field.name])
        if inner is not None:
            yield from _sections(inner, _below(cls, field, path))


def _cells(cls: type, field: attrs.Attribute[Any], path: str) -> tuple[str, str, str]:
    """Type, default and meaning of a key."""
    kind = _types(cls)[field.name]
    inner = _class_of(kind)
    if inner is None:
        said, default = _type(kind), _default(field)
    else:
        below = _below(cls, field, path)
        many = "mapping of names to " if get_origin(kind) is dict else ""
        said = f"{many}[{below}](#{_anchor(below)})"
        default = "required" if field.default is attrs.NOTHING else "its defaults"
    meaning = " ".join(docstrings(cls)[field.name].split())
    return said, default, _markdown(meaning).replace("|", "\\|")


def _below(cls: type, field: attrs.Attribute[Any], path: str) -> str:
    name = f"{path}.{field.name}".removeprefix(".")
    return f"{name}.NAME" if get_origin(_types(cls)[field.name]) is dict else name


def _anchor(path: str) -> str:
    """What a heading is linked by."""
    return path.replace(".", "").lower()


def _default(field: attrs.Attribute[Any]) -> str:
    default: Any = field.default
    if default is attrs.NOTHING:
        return "required"
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]
        default = default.factory()
    text = yaml.safe_dump(plain(default), default_flow_style=True, width=1000)
    return f"`{text.removesuffix('\n').removesuffix('...').strip()}`"


def _type(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if one is types.NoneType else _type(one) for one in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return "mapping"
    return _NOUNS[kind]


def _class_of(kind: Any) -> type | None:
    """The attrs class of a section, or of each value of a mapping of sections."""
    (found,) = get_args(kind)[1:] if get_origin(kind) is dict else (kind,)
    return found if isinstance(found, type) and attrs.has(found) else None


@cache
def _types(cls: type) -> Mapping[str, Any]:
    return get_type_hints(cls)


@cache
def docstrings(cls: type) -> Mapping[str, str]:
    """The string below each field of a class, read from its source; empty where there is none."""
    source = inspect.getsourcefile(cls)
    assert source is not None
    module = ast.parse(Path(source).read_text(encoding="utf-8"))
    classes = {node.name: node for node in module.body if isinstance(node, ast.ClassDef)}
    body = classes[cls.__name__].body
    found = {field.name: "" for field in attrs.fields(cls)}
    for node, after in pairwise(body):
        match node, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(said))),
            ):
                found[name] = inspect.cleandoc(said)
    return found


def _markdown(text: str) -> str:
    return text.replace("``", "`")


if __name__ == "__main__":
    print(reference(), end="")

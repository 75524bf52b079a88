"""``docs/plugins/reference.md``: every hook and every public name, made from the code.

``python -m mimo_core.plugins.docgen > docs/plugins/reference.md``
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from mimo_core.contract import CONTRACT
from mimo_core.plugins.registration import new_manager, specifications, wrappable
from mimo_core.plugins.result_validation import due_answer
from mimo_core.plugins.source_reader import Field, Named, hooks, public
from mimo_core.plugins.versions import Deprecation

_HEAD = f"""\
# Reference of the contract {CONTRACT}

<!-- Made: python -m mimo_core.plugins.docgen > docs/plugins/reference.md; a test compares. -->

All that a plugin implements, and all that it may import. Nothing else of `mimo_core` is promised.

- [Hooks](#hooks): what the host asks.
- [`mimo_core`](#mimo_core): the words of the hooks; imports neither torch nor megatron.
- [`mimo_core.building`](#mimo_corebuilding): what modules are built with; imports both.
- [`mimo_core.testing`](#mimo_coretesting): for tests.

A hook is a function of the object that the entry point loads, with its name and the mark
`@mimo_core.hookimpl`. It takes those of its arguments that it needs, by their names. Beside the
hooks stands `mimo_contract = "{CONTRACT}"`.

Shapes: `S` sequence positions, `B` sequences of a microbatch, `H` hidden width, `V` vocabulary, `N`
rows (positions of one modality over all its samples).
"""


def reference() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *_hooks(), *_module("mimo_core"), *_module("mimo_core.building")]) + (
        "\n".join(["", *_module("mimo_core.testing")])
    )


def deprecation_table(deprecations: Sequence[Deprecation]) -> str:
    """What leaves with the next major version of the contract, for ``versioning.md``."""
    if not deprecations:
        return "Nothing."
    rows = (f"| {one.what} | {one.since} | {one.instead} |" for one in deprecations)
    return "\n".join(["| what | since contract | instead |", "|---|---|---|", *rows])


def _hooks() -> Iterator[str]:
    arguments = specifications(new_manager())
    specs = hooks("mimo_core.plugins.hookspecs")
    assert sorted(spec.name for spec in specs) == sorted(arguments), "a hook is not specified here"
    yield "## Hooks\n"
    yield "| hook | gives | wrapped where the recipe says |\n|---|---|---|"
    for spec in specs:
        subject = {"module": "`modules.NAME.wrappers`", "data": "`data.wrappers`", None: "nowhere"}
        yield (
            f"| [`{spec.name}`](#{spec.name}) | {_sentence(spec.meaning)} | "
            f"{subject[wrappable(arguments[spec.name])]} |"
        )
    yield ""
    for spec in specs:
        yield f"### `{spec.name}`\n\n{_code(spec.name, spec.signature)}\n"
        yield f"{_markdown(spec.meaning)}\n"
        yield f"Checked to be: {due_answer(spec.name)}.\n"


def _module(name: str) -> Iterator[str]:
    yield f"## `{name}`\n"
    for one in public(name):
        yield f"### `{one.name}`\n"
        if one.value is not None:
            yield f"`{one.name} = {one.value}`\n"
        elif one.signature is not None:
            yield f"{_code(one.name, one.signature)}\n"
        if one.meaning:
            yield f"{_markdown(one.meaning)}\n"
        if one.fields:
            yield "| field | type | default | meaning |\n|---|---|---|---|"
            yield from map(_row, one.fields)
            yield ""
        yield from (_method(method) for method in one.methods)


def _row(field: Field) -> str:
    default = "required" if field.default is None else f"`{field.default}`"
    meaning = " ".join(_markdown(field.meaning).split())
    cells = f"`{field.name}`", f"`{field.type}`", default, meaning
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _method(method: Named) -> str:
    said = _markdown(method.meaning)
    return f"- `{method.name}{method.signature}`" + (
        f"\n\n{re.sub('^(?=.)', '  ', said, flags=re.M)}\n" if said else "\n"
    )


def _code(name: str, signature: str | None) -> str:
    """A signature, one argument a line where it is long."""
    line = f"{name}{signature}"
    if len(line) > 88:
        inner, _, returns = line.removeprefix(f"{name}(").rpartition(")")
        arguments = re.split(r", (?![^\[\(]*[\]\)])", inner)
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in arguments) + f"){returns}"
    return f"```python\n{line}\n```"


def _sentence(text: str) -> str:
    return _markdown(re.split(r"(?<=\.)\s", text, maxsplit=1)[0]).rstrip(".").replace("|", "\\|")


def _markdown(text: str) -> str:
    """A docstring as Markdown: code, lists of arguments, examples."""
    text = re.sub(r":(?:class|meth|func|mod):`~?([^`]+)`", r"`\1`", text.replace("``", "`"))
    lines: list[str] = []
    for block in re.split(r"\n\n(?! )", text):
        head, _, rest = block.partition("\n")
        if head in ("Args:", "Returns:", "Raises:"):
            items = re.sub(r"^    (\w[\w.]*): ", r"- `\1`: ", rest, flags=re.M)
            items = re.sub(r"^ {4,8}", "  " if "- `" in items else "", items, flags=re.M)
            title = {"Args:": "Arguments:", "Returns:": "Gives:", "Raises:": "Raises:"}[head]
            lines.append(f"{title}\n\n{items}")
        elif head == "::":
            code = re.sub(r"^    ", "", block.removeprefix("::\n\n"), flags=re.M)
            lines.append(f"```python\n{code}\n```")
        else:
            lines.append(block)
    return "\n\n".join(lines)


if __name__ == "__main__":
    print(reference(), end="")

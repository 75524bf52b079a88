"""What a user gives is used or refused: names of modules, and texts that are empty."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import pytest
import torch
import typer
from typer.testing import CliRunner

import mimo_core
from mimo_core.cli import mimo as mimo_command
from mimo_core.cli import pretrain as pretrain_command
from mimo_core.cli.options import path_given
from mimo_core.errors import RecipeError
from mimo_core.recipe import load_text, structure_options
from mimo_core.recipe.module_names import RESERVED
from mimo_core.recipe.schema import Recipe

from ..helpers.fake_plugins import RECIPE
from ..helpers.problems import facts
from ..helpers.problems import refused as refused_with

EMPTY = ("", "  ", "\t")


def refused(*overrides: str, text: str = RECIPE) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        load_text(text, "recipe.yaml", overrides)
    return caught.value


def test_every_attribute_of_the_container_is_refused_as_a_module_name() -> None:
    container = torch.nn.ModuleDict()
    there = set(dir(container)) | set(vars(container))
    public = {name for name in there if not name.startswith("_")}
    assert public <= set(RESERVED), sorted(public - set(RESERVED))
    for name in sorted(there):
        with pytest.raises(KeyError):
            container[name] = torch.nn.Identity()
        error = refused(text=RECIPE.replace("  vision:", f"  {name}:"))
        place = f"recipe.yaml:2: modules.{name}"
        assert facts(error) == [("recipe.module-name", place, {"name": name})]


def test_the_container_of_the_encoders_is_a_module_dict() -> None:
    spec = importlib.util.find_spec("megatron.core")
    assert spec is not None and spec.submodule_search_locations
    base = Path(spec.submodule_search_locations[0], "models", "mimo", "model", "base.py")
    source = base.read_text(encoding="utf-8")
    assert "self.modality_submodules = torch.nn.ModuleDict()" in source
    assert 'modality_embeddings["text"] = text_embeddings' in source, "why 'text' is refused"


@pytest.mark.parametrize("name", ["training", "modules", "forward", "text"])
def test_a_reserved_name_is_refused_with_its_reason(name: str) -> None:
    error = refused(text=RECIPE.replace("  vision:", f"  {name}:"))
    assert error.code == "recipe.module-name" and RESERVED[name] in error.text
    assert error.text.endswith(f"rename it, for example 'my_{name}'")


def text_fields(cls: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all fields of a recipe that hold a free text; a module is named ``vision``."""
    for field in attrs.fields(attrs.resolve_types(cls)):
        kind = field.type
        if kind in (str, str | None):
            yield (*path, field.name)
        elif attrs.has(kind):
            yield from text_fields(kind, (*path, field.name))
        elif field.name == "modules":
            yield from text_fields(kind.__args__[1], (*path, "modules", "vision"))


TEXTS = sorted(".".join(path) for path in text_fields(Recipe))


def test_the_texts_of_a_recipe_are_found() -> None:
    assert {"modules.vision.pretrained_weights", "tokenizer.path", "checkpoint.init_from"} <= {
        *TEXTS
    }


@pytest.mark.parametrize("key", TEXTS)
def test_an_empty_text_is_refused(key: str) -> None:
    for text in EMPTY:
        (problem,) = refused(f'{key}="{text}"'.replace("\t", "\\t")).problems
        assert problem.code == "recipe.empty-text"
        assert problem.place.startswith(f"command line: {key}=")


@attrs.frozen(kw_only=True)
class Inner:
    folder: str | None = None


@attrs.frozen(kw_only=True)
class Options:
    file: str = "a"
    names: tuple[str, ...] = ()
    inner: Inner = attrs.field(factory=Inner)
    many: dict[str, Inner] = attrs.field(factory=dict)
    separator: str = ""


def test_an_empty_text_among_the_options_of_any_plugin_is_refused() -> None:
    loaded = load_text(RECIPE, "recipe.yaml")

    def path(**values: object) -> tuple[str | int, ...]:
        with pytest.raises(RecipeError) as caught:
            structure_options(loaded, ("data", "options"), Options, values)
        assert caught.value.code == "recipe.empty-text"
        return caught.value.path[2:]

    assert path(file="") == ("file",)
    assert path(names=["a", " "]) == ("names", 1)
    assert path(inner={"folder": ""}) == ("inner", "folder")
    assert path(many={"one": {"folder": ""}}) == ("many", "one", "folder")
    default_may_be = structure_options(loaded, ("data",), Options, {"separator": ""})
    assert default_may_be == Options()


def path_parameters(app: typer.Typer) -> Iterator[tuple[str, Any]]:
    """Every option or argument of a command that is a path, with what typer is given for it."""
    for command in app.registered_commands:
        assert command.callback is not None
        for name, kind in get_type_hints(command.callback, include_extras=True).items():
            inner, *given = get_args(kind) or (kind,)
            if inner is Path or Path in get_args(inner):
                yield f"{command.callback.__name__}.{name}", given[0]
    for group in app.registered_groups:
        assert group.typer_instance is not None
        yield from path_parameters(group.typer_instance)


def test_no_command_takes_an_empty_path_for_the_working_directory() -> None:
    found = [*path_parameters(mimo_command.app), *path_parameters(pretrain_command.app)]
    assert len(found) >= 6
    for name, given in found:
        assert given.parser is path_given, name
    done = CliRunner().invoke(pretrain_command.app, ["demo", "--run-dir", ""])
    assert (done.exit_code, "the path is empty" in done.output) == (2, True)
    for text in EMPTY:
        with refused_with("run.unusable-folder", folder=text):
            mimo_core.pretrain("demo", run_dir=text)

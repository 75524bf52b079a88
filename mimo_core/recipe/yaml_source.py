"""Reading YAML into plain values, with the place of every key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import yaml

from mimo_core.errors import KeyPath, Problem, RecipeError

OPTIONS = {"--profile": "profile.enabled=true"}
"""Options of the command that set a key; messages name them as they were typed."""
INVALID_YAML = "recipe.invalid-yaml"
MOST_BYTES = 1 << 20
"""Bytes of a recipe."""
_MOST_VALUES = 20_000
"""Values of a recipe, those that aliases repeat included."""
_MOST_LEVELS = 32
"""Mappings and lists inside each other."""
Path = KeyPath


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which also reads ``1e-3`` as a number (YAML 1.1 wants ``1.0e-3``)."""


class Dumper(yaml.SafeDumper):
    """Writes what :class:`Loader` reads: it quotes a text that looks like ``1e-3``."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Line breaks of Unicode: PyYAML writes them as they are, and reads them as spaces or newlines."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Between double quotes, in which they are escaped, where it holds such breaks."""
    style = '"' if _BREAKS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


Dumper.add_representer(str, _text)
# YAML 1.1 reads 010 as 8 and 12:30 as 750; such texts are no numbers here.
_PLAIN = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"([-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
}
Loader.yaml_implicit_resolvers = {
    first: [(tag, _PLAIN.get(tag, pattern)) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _side in (Loader, Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


@attrs.frozen(kw_only=True)
class SourceMap:
    """Where each key of a recipe was written."""

    source: str
    """The file, as the user named it."""
    lines: dict[Path, int] = attrs.field(factory=dict)
    overrides: dict[Path, str] = attrs.field(factory=dict)
    """Keys that the command line set, with its words."""

    def place(self, path: Path) -> str:
        """``recipe.yaml:12: modules.vision.grid.dq``; the line may be that of a key above."""
        for size in range(len(path), -1, -1):
            prefix = path[:size]
            if prefix in self.overrides:
                words = self.overrides[prefix]
                if words.partition("=")[0] == dotted(path):
                    return f"command line: {words}"
                return f"command line: {words}: {dotted(path)}"
            if prefix in self.lines:
                return f"{self.source}:{self.lines[prefix]}: {dotted(path)}"
        return f"{self.source}: {dotted(path)}"

    def placed(self, problem: Problem) -> Problem:
        """The problem with the place of its keys, if it has none yet."""
        if problem.place:
            return problem
        return attrs.evolve(problem, place=self.place(problem.path))

    def order(self, path: Path) -> tuple[int, int]:
        """Sorts mistakes as a reader meets them: by line, the command line last."""
        for size in range(len(path), -1, -1):
            if path[:size] in self.overrides:
                return (1, list(self.overrides).index(path[:size]))
            if path[:size] in self.lines:
                return (0, self.lines[path[:size]])
        return (0, 0)

    def is_made_up(self, path: Path) -> bool:
        """Whether the key exists only because an override goes through it."""
        words = self.overrides.get(path)
        return words is not None and words.partition("=")[0] != dotted(path)

    def forget(self, path: Path) -> None:
        """Drops the key and all below it."""
        for known in (self.lines, self.overrides):
            for other in [other for other in known if other[: len(path)] == path]:
                del known[other]


def dotted(path: Path) -> str:
    """``modules.vision.freeze[0]``; the top of the recipe is ``recipe``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".") or "recipe"


def read(text: str, source: str) -> tuple[dict[str, Any], SourceMap]:
    """The values of a YAML text, and the place of every key.

    Raises:
        RecipeError: It is no YAML, no mapping, or holds a key twice (all such keys reported).
    """
    node, wrong = _compose(text)
    if wrong is not None:
        line, message = wrong
        raise RecipeError.of([Problem(message, INVALID_YAML, place=f"{source}:{line}")])
    if not isinstance(node, yaml.MappingNode):
        message = "a recipe is a mapping of keys such as 'modules' and 'data'"
        raise RecipeError.of([Problem(message, "recipe.no-mapping", place=f"{source}:1")])
    places = SourceMap(source=source)
    reader = _Reader(places)
    values = reader.value(node, ())
    if reader.problems:
        raise RecipeError.of(reader.problems)
    return values, places


def apply_override(words: str, values: dict[str, Any], places: SourceMap) -> None:
    """Sets ``key.path=value`` in ``values``, or what an option of the command is short for; the
    value is read as YAML.

    Raises:
        RecipeError: It has another form, or the path goes through something without keys.
    """
    place = f"command line: {words}"
    dots, equals, text = OPTIONS.get(words, words).partition("=")
    path = tuple(dots.split("."))
    if not equals or not all(path):
        message = "expected key.path=value, such as train.iterations=20"
        raise RecipeError.of([Problem(message, "recipe.invalid-override", place=place)])
    node, wrong = _compose(text)
    if wrong is not None:
        message = f"the value is no YAML: {wrong[1]}"
        raise RecipeError.of([Problem(message, INVALID_YAML, path, place=place)])
    here = values
    for depth, key in enumerate(path[:-1], start=1):
        if key not in here:
            here[key] = {}
            places.overrides[path[:depth]] = words
        below = here[key]
        if not isinstance(below, dict):
            message = f"{dotted(path[:depth])} is {below!r}, which has no key {path[depth]!r}"
            raise RecipeError.of([Problem(message, "recipe.no-mapping", path, place=place)])
        here = below
    places.forget(path)
    reader = _Reader(SourceMap(source=""))
    here[path[-1]] = None if node is None else reader.value(node, path)
    if reader.problems:
        problem = reader.problems[0]
        if problem.path != path:
            place += f": {dotted(problem.path)}"
        raise RecipeError.of([attrs.evolve(problem, place=place)])
    places.overrides[path] = words


def _compose(text: str) -> tuple[yaml.Node | None, tuple[int, str] | None]:
    """The YAML node, or a line and what is wrong there."""
    try:
        if (deep := _too_deep(text)) is not None:
            return None, deep
        return yaml.compose(text, Loader=Loader), None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        return None, (mark.line + 1 if mark else 1, f"not valid YAML: {said}")
    except yaml.YAMLError as error:
        return None, (1, f"not valid YAML: {error}")


def _too_deep(text: str) -> tuple[int, str] | None:
    """A line and what is wrong there, where mappings and lists are too many levels deep: what
    reads all of them takes a time that grows with the square of the levels."""
    levels = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            levels += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            levels -= 1
        if levels > _MOST_LEVELS:
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            return line, f"not valid YAML: more than {_MOST_LEVELS} levels inside each other"
    return None


class _Reader:
    """Turns YAML nodes into values, and notes places and mistakes on the way."""

    def __init__(self, places: SourceMap) -> None:
        self.places = places
        self.problems: list[Problem] = []
        self._open: list[yaml.Node] = []
        self._values = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.places.lines.setdefault(path, node.start_mark.line + 1)
        if any(node is above for above in self._open):
            return self._problem(path, "an alias (*) inside its own anchor (&)", INVALID_YAML)
        self._values += 1
        if self._values > _MOST_VALUES:
            raise RecipeError(
                f"{self.places.source}: more than {_MOST_VALUES:,} values, those that aliases (*) "
                "repeat included",
                code="recipe.too-large",
            )
        if len(self._open) >= _MOST_LEVELS:
            message = f"more than {_MOST_LEVELS} levels inside each other"
            return self._problem(path, message, INVALID_YAML)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self._entries(node, path))
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            return _scalar(node)
        except RecipeError:
            raise
        except (yaml.YAMLError, ValueError) as error:
            said = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
            return self._problem(path, str(said), INVALID_YAML)
        finally:
            self._open.pop()

    def _entries(self, node: yaml.MappingNode, path: Path) -> Iterator[tuple[str, Any]]:
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.value == "<<":
                self.places.lines.setdefault(path, line)
                message = "a key is a plain word; merge keys (<<) are not read"
                self._problem(path, message, INVALID_YAML)
                continue
            key = key_node.value
            below = (*path, key)
            if key in first:
                noun, other = "key", ""
                if path == ("modules",):
                    noun, other = "module", ", or give one of them another name"
                self.problems.append(
                    Problem(
                        f"{noun} {key!r} is given twice, first in line {first[key]}; "
                        f"keep one{other}",
                        "recipe.duplicate-key",
                        below,
                        {"key": key, "lines": (first[key], line)},
                        place=f"{self.places.source}:{line}: {dotted(below)}",
                    )
                )
                continue
            first[key] = self.places.lines[below] = line
            yield key, self.value(value_node, below)

    def _problem(self, path: Path, message: str, code: str) -> None:
        self.problems.append(self.places.placed(Problem(message, code, path)))


def _scalar(node: yaml.Node) -> Any:
    loader = Loader("")
    try:
        return loader.construct_object(node, deep=True)
    finally:
        loader.dispose()


def keys(value: object) -> tuple[str, ...]:
    """The keys of a mapping; none of anything else."""
    return tuple(value) if isinstance(value, Mapping) else ()

"""The manifest of a checkpoint: what it holds, with a checksum of every file and of itself.

Rank 0 writes it last and renames it into place. A checkpoint without one is incomplete.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypedDict

import attrs

from mimo_core.checkpoint.checksums import checksum_of_bytes, checksum_of_file
from mimo_core.errors import CheckpointError
from mimo_core.recipe.converter import structure
from mimo_core.recipe.schema import Placement, Recipe
from mimo_core.utils.durable_files import replace, sync_folder
from mimo_core.utils.regular_files import JSON_BYTES, UnreadableFile, read_bytes

MANIFEST = "mimo.json"
"""In each complete checkpoint."""
DAMAGED = "checkpoint.damaged"
UNREADABLE = "checkpoint.unreadable"
FORMAT = 4
"""Of the manifest."""
_CHECKSUM = re.compile(r"[0-9a-f]{32}")
_END = re.compile(rb'(?s)(.*),\n "checksum": "([0-9a-f]{32})"\n}\n')
"""The manifest's text: what its checksum is of, and the checksum."""
_READ_SUFFIXES = (".distcp", ".pt", ".json")
_READ_NAMES = (".metadata",)
"""What Megatron, torch or mimo-core may read in a checkpoint by its name."""


class FileFacts(TypedDict):
    """What a file must be."""

    bytes: int
    xxh3_128: str


class TensorFacts(TypedDict):
    """A tensor of the checkpoint."""

    shape: list[int]
    dtype: str


class LeftOutFacts(TensorFacts):
    """A tensor that is read elsewhere: ``origin`` is a position in the manifest's ``origins``."""

    origin: int


class OriginFacts(TypedDict):
    """See ``mimo_core.weights.frozen_sources.WeightSource``."""

    kind: Literal["directory", "checkpoint"]
    path: str
    digest: str
    module: str


class ModuleFacts(TypedDict):
    """Where a module was."""

    grid: dict[str, int]
    rank_offset: int


class LayoutFacts(TypedDict):
    """The layout as it was."""

    kind: Placement
    world_size: int
    device: Literal["cpu", "cuda"]
    modules: dict[str, ModuleFacts]


@attrs.frozen(kw_only=True)
class Manifest:
    """What a checkpoint holds, and what the run was that saved it."""

    format: int
    run: str
    """Identity of the run: drawn when it began, the same in all its checkpoints."""
    iteration: int
    consumed_samples: int
    recipe: dict[str, Any]
    """The resolved recipe."""
    layout: LayoutFacts
    plugins: dict[str, str]
    """Versions by name."""
    plugins_digest: str
    versions: dict[str, str]
    """Of the libraries that compute, by name."""
    environment: dict[str, str]
    """Variables by which libraries choose how they compute."""
    tokenizer: str
    """Its digest."""
    samples: dict[str, tuple[int, str | None]]
    """Length and digest of each split."""
    optimizer: str
    """How the optimizer's state is cut: megatron's ``distrib_optim_sharding_type``."""
    tensors: dict[str, TensorFacts]
    """By key; the shape is the global one."""
    objects: tuple[str, ...]
    """Keys of what is no tensor."""
    files: dict[str, FileFacts]
    """By path in the checkpoint."""
    random_states: tuple[str, ...]
    """The file of each world rank's random state."""
    left_out: dict[str, LeftOutFacts] = attrs.field(factory=dict)
    """Weights that do not learn and are read again elsewhere, by key."""
    origins: tuple[OriginFacts, ...] = ()
    """Where they are read."""


class IncompleteCheckpointError(ValueError):
    """A folder is no complete checkpoint; the message says why."""


class Damaged(CheckpointError):
    """A checkpoint was complete and is not what was saved; the message names the file."""


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a complete checkpoint. The bytes of the other files are not read: see
    :func:`damaged_files`.

    Raises:
        IncompleteCheckpointError: there is no manifest, or a file is missing or too short.
        Damaged: the manifest or the list of files is not what was saved.
        CheckpointError: it is of another format than this version reads, or its manifest cannot be
            read.
    """
    try:
        content = read_bytes(checkpoint / MANIFEST, JSON_BYTES)
    except FileNotFoundError:
        raise IncompleteCheckpointError(f"{MANIFEST}, which is written last, is missing") from None
    except UnreadableFile as error:
        raise unreadable(checkpoint / MANIFEST, error) from None
    manifest = _parsed(checkpoint, content)
    expected = checkpoint.with_name(f"iter_{manifest.iteration:07d}").name
    if checkpoint.name != expected:
        message = f"{checkpoint} is damaged: its {MANIFEST} is of iteration {manifest.iteration}"
        raise damaged(message, checkpoint, MANIFEST)
    for name, facts in sorted(manifest.files.items()):
        path = checkpoint / name
        if not path.is_file():
            raise IncompleteCheckpointError(f"{name} is missing")
        found = path.stat().st_size
        if found < facts["bytes"]:
            raise IncompleteCheckpointError(f"{name} has {found} of {facts['bytes']} bytes")
        if found > facts["bytes"]:
            raise damaged(
                f"{checkpoint} is damaged: {name} has {found} bytes, saved were {facts['bytes']}",
                checkpoint,
                name,
            )
    for name in unlisted_files(checkpoint, manifest):
        if name.endswith(_READ_SUFFIXES) or PurePosixPath(name).name in _READ_NAMES:
            raise damaged(
                f"{checkpoint} is damaged: it holds {name}, which its {MANIFEST} does not list; "
                "move that file to another folder",
                checkpoint,
                name,
            )
    return manifest


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """The error for what the system refuses to read: it may be a complete checkpoint."""
    return CheckpointError(
        f"{path} cannot be read: {error.strerror or error}; make it readable, or move it away",
        code=UNREADABLE,
        file=str(path),
    )


def damaged(message: str, checkpoint: Path, file: str) -> Damaged:
    """The error for a file of a checkpoint that is not what was saved."""
    return Damaged(message, code=DAMAGED, checkpoint=str(checkpoint), file=file)


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Make a checkpoint a complete one; the last thing that is done to it."""
    sync_folder(checkpoint.parent)
    values = json.dumps(attrs.asdict(manifest), indent=1)
    text = values.removesuffix("\n}")
    checksum = checksum_of_bytes(text.encode())
    replace(checkpoint / MANIFEST, f'{text},\n "checksum": "{checksum}"\n}}\n')


def files_of(checkpoint: Path) -> list[str]:
    """Paths of all files in a checkpoint's folder but the manifest, in the folder."""
    return [
        path.relative_to(checkpoint).as_posix()
        for path in sorted(checkpoint.rglob("*"))
        if not path.is_dir() and path != checkpoint / MANIFEST
    ]


def unlisted_files(checkpoint: Path, manifest: Manifest) -> list[str]:
    """Files of a checkpoint's folder that are not part of the checkpoint."""
    drafts = f"{MANIFEST}.new"
    return [name for name in files_of(checkpoint) if name not in manifest.files and name != drafts]


def file_facts(checkpoint: Path, names: list[str]) -> dict[str, FileFacts]:
    """Size and checksum of some files of a checkpoint, as they are now.

    Raises:
        OSError: a file cannot be read.
    """
    return {
        name: {
            "bytes": (checkpoint / name).stat().st_size,
            "xxh3_128": checksum_of_file(checkpoint / name),
        }
        for name in names
    }


def damaged_files(checkpoint: Path, manifest: Manifest, names: list[str]) -> list[str]:
    """Of some files of a checkpoint, a line for each that is not what was saved. Reads them whole.

    Args:
        checkpoint: The folder.
        manifest: Of the checkpoint.
        names: Paths in the folder, of ``manifest.files``.
    """
    found = []
    for name in names:
        try:
            checksum = checksum_of_file(checkpoint / name)
        except OSError as error:
            found.append(f"{name} cannot be read ({error.strerror or error})")
            continue
        if checksum != manifest.files[name]["xxh3_128"]:
            found.append(f"{name} holds other bytes than were saved")
    return found


def _parsed(checkpoint: Path, content: bytes) -> Manifest:
    def wrong_manifest(why: str) -> Damaged:
        return damaged(f"{checkpoint} is damaged: {MANIFEST} {why}", checkpoint, MANIFEST)

    ended = _END.fullmatch(content)
    if ended and checksum_of_bytes(ended[1]) != ended[2].decode():
        raise wrong_manifest("holds other bytes than were saved")
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        raise wrong_manifest("cannot be read") from None
    if not isinstance(values, dict) or type(values.get("format")) is not int:
        raise wrong_manifest("states no format")
    if values["format"] != FORMAT:
        raise CheckpointError(
            f"{checkpoint / MANIFEST} has format {values['format']}, and this version of mimo-core "
            f"reads format {FORMAT}; use the version that saved it",
            code="checkpoint.other-format",
            checkpoint=str(checkpoint),
            format=values["format"],
            expected=FORMAT,
        )
    if not ended:
        raise wrong_manifest("holds other bytes than were saved")
    del values["checksum"]
    manifest, problems = structure(Manifest, values)
    wrong = [f"{_place(problem.path)}: {problem.message}" for problem in problems]
    if manifest is not None:
        wrong += _contradictions(manifest)
    if wrong or manifest is None:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise wrong_manifest(f"was changed: {wrong[0]}{more}")
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What no save writes."""
    if not re.fullmatch("[0-9a-f]{32}", manifest.run):
        yield f"run: expected 32 hexadecimal digits, got {manifest.run!r}"
    for key in ("iteration", "consumed_samples"):
        if getattr(manifest, key) < 0:
            yield f"{key}: expected 0 or more, got {getattr(manifest, key)}"
    _, problems = structure(Recipe, manifest.recipe, ("recipe",))
    yield from (f"{_place(problem.path)}: {problem.message}" for problem in problems)
    yield from _wrong_layout(manifest)
    for name, facts in manifest.files.items():
        parts = PurePosixPath(name).parts
        inside = not name.startswith("/") and ".." not in parts and "/".join(parts) == name
        if not inside or name == MANIFEST:
            yield f"files: {name!r} is no path of a file in the checkpoint"
        if facts["bytes"] < 0 or not _CHECKSUM.fullmatch(facts["xxh3_128"]):
            yield f"files.{name}: expected a size and a checksum, got {facts}"
    for name in manifest.random_states:
        if name not in manifest.files:
            yield f"random_states: files do not list {name!r}"
    for key, tensor in (*manifest.tensors.items(), *manifest.left_out.items()):
        if any(size < 0 for size in tensor["shape"]) or not tensor["dtype"].isidentifier():
            yield f"tensors.{key}: expected a shape and a dtype, got {tensor}"
    for key, left in manifest.left_out.items():
        if key in manifest.tensors or not 0 <= left["origin"] < len(manifest.origins):
            yield f"left_out.{key}: the checkpoint holds it, or origins do not"


def _wrong_layout(manifest: Manifest) -> Iterator[str]:
    layout = manifest.layout
    if layout["world_size"] != len(manifest.random_states):
        yield f"layout.world_size: {layout['world_size']}, with the random states of others"
    wanted = manifest.recipe.get("modules")
    if not isinstance(wanted, Mapping) or wanted.keys() != layout["modules"].keys():
        yield "layout.modules: not the modules of the recipe"
    for name, module in layout["modules"].items():
        if not 0 <= module["rank_offset"] < layout["world_size"]:
            yield f"layout.modules.{name}.rank_offset: {module['rank_offset']} is no rank"
        if any(size < 1 for size in module["grid"].values()):
            yield f"layout.modules.{name}.grid: expected sizes from 1, got {module['grid']}"


def _place(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))

"""Every file and folder that a user can name, as every odd thing that a path can lead to: one line
names it, with status 2, and nothing waits for a pipe, reads a device to its end or fills memory."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from mimo_core.cli import mimo, pretrain
from mimo_core.errors import problems_in

RECIPE = """\
modules:
  vision:
    plugin: radio
    options:
      {hidden_size: 16, layers: 1, heads: 2, image_size: 16, max_image_size: 16, patch_size: 4}
  language: {plugin: gpt, options: {hidden_size: 32, layers: 2, attention_heads: 4}}
data: {plugin: captions, options: {file: data.jsonl, held_out: 0.25}}
train:
  {iterations: 1, micro_batch_size: 2, global_batch_size: 2, sequence_length: 48,
   learning_rate: 1.0e-2}
"""
PLAN = ("mimo", "plan", "recipe.yaml")
RUN = ("mimo-pretrain", "recipe.yaml")
WEIGHTS = "modules.language.pretrained_weights"
HF = ("modules.vision.plugin=hf-vision", "modules.vision.options={model: odd}")
FILES: dict[str, tuple[str, tuple[str, ...]]] = {
    "recipe": ("odd", ("mimo", "plan", "odd")),
    "data of captions": ("odd.jsonl", (*PLAN, "data.options.file=odd.jsonl")),
    "tokenizer.json": ("odd/tokenizer.json", (*PLAN, "tokenizer.path=odd")),
    "config.json of weights": (
        "odd/config.json",
        (*PLAN, f"{WEIGHTS}=odd"),
    ),
    "safetensors": ("odd/model.safetensors", (*PLAN, f"{WEIGHTS}=odd")),
    "index": (
        "odd/model.safetensors.index.json",
        (*PLAN, f"{WEIGHTS}=odd"),
    ),
    "config.json of like": ("odd/config.json", (*PLAN, "modules.language.options={like: odd}")),
    "config.json of hf-vision": ("odd/config.json", (*PLAN, *HF)),
    "recipe of init_from": ("odd/recipe.yaml", (*PLAN, "checkpoint.init_from=odd")),
    "recipe of export": ("odd/recipe.yaml", ("mimo", "export", "odd", "out")),
}
"""By what it is: its path, and the command that reads it."""
FOLDERS: dict[str, tuple[str, ...]] = {
    "tokenizer": (*PLAN, "tokenizer.path=odd"),
    "weights": (*PLAN, f"{WEIGHTS}=odd"),
    "like": (*PLAN, "modules.language.options={like: odd}"),
    "model of hf-vision": (*PLAN, *HF),
    "init_from": (*PLAN, "checkpoint.init_from=odd"),
    "run of export": ("mimo", "export", "odd", "out"),
    "run folder": (*RUN, "--run-dir", "odd"),
    "checkpoints": (*RUN, "--run-dir", "run", "checkpoint.directory=../odd"),
}


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.path.relpath(path))


def link_loop(path: Path) -> None:
    path.symlink_to(path.name)


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 4)


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def file(path: Path) -> None:
    path.write_text("x")


ODD_FILES = (fifo, device, listening, link_loop, Path.mkdir, huge, binary, Path.touch, deep)
ODD_FOLDERS = (fifo, device, listening, link_loop, file)


class Late(BaseException):
    """A command waits; no handler of errors takes it for one."""


@pytest.fixture(autouse=True)
def bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command that waits or fills memory fails this test, and no other."""

    def late(*_: object) -> None:
        raise Late

    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    Image.new("RGB", (16, 16)).save("0.png")
    lines = [{"id": f"s{number}", "text": "abc", "image": "0.png"} for number in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(900)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # Libraries of an earlier test in this process may have reserved many gigabytes already.
    reserved = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (reserved + (4 << 30), limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a command says that ends with status 2."""
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as end:
        (pretrain if words[0] == "mimo-pretrain" else mimo).main()
    said = capsys.readouterr().err
    assert end.value.code == 2, said
    assert all(problem.code for problem in problems_in(said.strip())), said
    return said


@pytest.mark.parametrize("make", ODD_FILES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("what", FILES)
def test_an_odd_file_is_named(
    what: str,
    make: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, words = FILES[what]
    Path(name).parent.mkdir(exist_ok=True)
    make(Path(name))
    said = refused(words, monkeypatch, capsys)
    assert Path(name).parts[0] in said and len(said) < 1500, said
    assert "Traceback" not in said and said.count("\n") <= 8, said


@pytest.mark.parametrize("make", ODD_FOLDERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("what", FOLDERS)
def test_an_odd_folder_is_named(
    what: str,
    make: Callable[[Path], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(Path("odd"))
    said = refused(FOLDERS[what], monkeypatch, capsys)
    assert "odd" in said and said.count("\n") <= 2 and len(said) < 1500, said


@pytest.mark.parametrize("path", ["a" * 5000, '"a\\0b"', '"\\ud800"'], ids=["long", "zero", "half"])
@pytest.mark.parametrize(
    "key",
    [
        "data.options.file",
        "tokenizer.path",
        "modules.language.pretrained_weights",
        "modules.language.options.like",
        "checkpoint.init_from",
    ],
)
def test_a_name_that_no_file_can_have_is_refused(
    key: str, path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused((*PLAN, f"{key}={path}"), monkeypatch, capsys)
    assert said.count("\n") <= 2, said


def bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (bomb(), "more than 20,000 values, those that aliases (*) repeat included"),
        ("a: " + "[" * 2000 + "]" * 2000, "more than 32 levels inside each other"),
        ("a: " + "[" * 40 + "]" * 40, "more than 32 levels inside each other"),
        ("a: {" * 2000, "more than 32 levels inside each other"),
    ],
    ids=["bomb", "lists", "levels", "open"],
)
def test_a_hostile_recipe_is_refused(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd.yaml").write_text(text)
    shown = refused(("mimo", "plan", "odd.yaml"), monkeypatch, capsys)
    assert shown.startswith("odd.yaml:") and said in shown and shown.count("\n") == 1, shown


def header(text: str, data: int = 8) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + bytes(data)


def tensors(*spans: object, dtype: str = "F32", shape: str = "[1]") -> str:
    parts = [f'"t{n}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {span}}}'
             for n, span in enumerate(spans)]  # fmt: skip
    return "{" + ", ".join(parts) + "}"


@pytest.mark.parametrize(
    "content",
    [
        (1 << 63).to_bytes(8, "little") + b"{}",
        (99_000_000).to_bytes(8, "little") + b"{}",
        header(tensors([0, 4], [0, 4])),
        header(tensors([0, 4], [2, 6])),
        header(tensors([4, 8])),
        header(tensors([0, 4])),
        header(tensors([0, -4])),
        header(tensors([-8, -4], [0, 4])),
        header(tensors([8, 4])),
        header(tensors("[0, NaN]")),
        header(tensors("[0, 1e3]")),
        header(tensors("[0, Infinity]")),
        header(tensors([0, 8], shape="[1.5]")),
        header(tensors([0, 8], shape="[true, 2]")),
        header(tensors([0, 8], shape="[-1, -2]")),
        header(tensors([0, 8], shape="[4611686018427387904, 4]")),
        header('{"t0": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, ' * 2),
        header('{"a": 1, "a": 2}'),
        header('{"t0": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'),
        header("[" * 100_000),
        header('{"a":' * 100_000),
        header("9" * 5000),
        header("[]"),
        header("null"),
    ],
    ids=range(24),
)
def test_a_crafted_safetensors_header_is_refused(
    content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("odd").mkdir()
    Path("odd/model.safetensors").write_bytes(content)
    said = refused((*PLAN, f"{WEIGHTS}=odd"), monkeypatch, capsys)
    assert "odd/model.safetensors" in said and said.count("\n") == 1 and len(said) < 1500, said

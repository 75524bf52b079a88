"""Code in the files of a checkpoint or of a weights directory is never run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from typer.testing import CliRunner

from mimo_core.checkpoint import restricted_unpickler
from mimo_core.checkpoint.checksums import checksum_of_bytes
from mimo_core.checkpoint.directory import checkpoint_path
from mimo_core.checkpoint.manifest import MANIFEST, file_facts, files_of, read_manifest
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.cli.mimo import app
from mimo_core.errors import MimoError

from ..helpers.paths import RECIPES
from ..helpers.problems import refused
from ..helpers.runs import TIMEOUT, Run, start


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (os.mkdir, (str(self._marker),))


def zipped(trap: Trap) -> bytes:
    """The trap inside of the zip archive that ``torch.save`` writes."""
    stream = io.BytesIO()
    torch.save([trap], stream)
    return stream.getvalue()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "bare")))
    torch.load(io.BytesIO(zipped(Trap(tmp_path / "zipped"))), weights_only=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "zipped"]


def planted(run: Run, folder: Path) -> Path:
    """A copy of a run's newest checkpoint, alone in a run folder."""
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("logs", "tensorboard"))
    return checkpoint_path(folder / "checkpoints", run.summary["iterations"][-1]["iteration"])


def seal(checkpoint: Path) -> None:
    """Recompute all checksums of a checkpoint, which whoever can write its files can do too."""
    values = json.loads((checkpoint / MANIFEST).read_text())
    del values["checksum"]
    values["files"] = file_facts(checkpoint, files_of(checkpoint))
    text = json.dumps(values, indent=1).removesuffix("\n}")
    checksum = checksum_of_bytes(text.encode())
    (checkpoint / MANIFEST).write_text(f'{text},\n "checksum": "{checksum}"\n}}\n')
    read_manifest(checkpoint)


def plant_item(checkpoint: Path, name: Callable[[str, object], bool], blob: bytes) -> Path:
    """Let the first item of the checkpoint for which ``name`` holds be ``blob``."""
    metadata: Metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    index = next(
        index
        for index in sorted(metadata.storage_data, key=lambda index: index.fqn)
        if name(index.fqn, metadata.state_dict_metadata[index.fqn])
    )
    info = metadata.storage_data[index]
    file = checkpoint / info.relative_path
    metadata.storage_data[index] = attrs_like(info, file.stat().st_size, len(blob))
    file.write_bytes(file.read_bytes() + blob)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    seal(checkpoint)
    return file


def attrs_like(info: Any, offset: int, length: int) -> Any:
    return type(info)(relative_path=info.relative_path, offset=offset, length=length)


def is_tensor(key: str, held: object) -> bool:
    return isinstance(held, TensorStorageMetadata)


def is_object(key: str, held: object) -> bool:
    return not is_tensor(key, held)


def plant(checkpoint: Path, what: str, marker: Path) -> Path:
    """Put a trap into a checkpoint, with right checksums; gives the file that holds it."""
    blob = zipped(Trap(marker))
    if what in ("a tensor", "an object"):
        return plant_item(checkpoint, is_tensor if what == "a tensor" else is_object, blob)
    file = checkpoint / what
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(pickle.dumps(Trap(marker)) if what == ".metadata" else blob)
    seal(checkpoint)
    return file


@pytest.mark.parametrize(
    ("way", "what"),
    [
        ("resume", ".metadata"),
        pytest.param("resume", "common.pt", marks=pytest.mark.long),
        ("resume", "random-00001.json"),
        pytest.param("resume", "metadata.json", marks=pytest.mark.long),
        pytest.param("resume", "mp_rank_00/model_optim_rng.pt", marks=pytest.mark.long),
        ("resume", "a tensor"),
        pytest.param("resume", "an object", marks=pytest.mark.long),
        ("init_from", ".metadata"),
        pytest.param("init_from", "common.pt", marks=pytest.mark.long),
        pytest.param("init_from", "a tensor", marks=pytest.mark.long),
    ],
)
def test_a_run_executes_nothing_of_a_checkpoint_and_names_the_file(
    way: str, what: str, tiny: Run, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    file = plant(planted(tiny, tmp_path / "planted"), what, marker)
    folder = tmp_path / ("planted" if way == "resume" else "new")
    more = () if way == "resume" else (f"checkpoint.init_from={tmp_path / 'planted'}",)
    run = start("tiny", "train.iterations=9", *more, folder=folder)
    assert not marker.exists()
    assert run.code not in (0, None) and str(file) in run.errors, run.errors
    assert "Traceback" not in run.errors and "does not exist" not in run.errors


def mimo(*words: str | Path) -> str:
    """Run the program ``mimo``; gives what it prints, or its error."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is None:
        return done.output
    assert isinstance(done.exception, MimoError | OSError), done.exc_info
    return f"refused: {done.exception}"


@pytest.mark.parametrize("what", [".metadata", "a tensor"])
def test_an_export_executes_nothing_of_a_checkpoint_and_names_the_file(
    what: str, tiny: Run, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    checkpoint = planted(tiny, tmp_path / "planted")
    file = plant(checkpoint, what, marker)
    said = mimo("export", checkpoint, tmp_path / "out")
    assert said.startswith("refused: ") and str(file) in said
    assert not marker.exists()


@pytest.mark.long
@pytest.mark.parametrize("what", [".metadata", "common.pt", "metadata.json", "a tensor"])
def test_verify_executes_nothing_of_a_checkpoint_and_names_the_file(
    what: str, tiny: Run, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    file = plant(planted(tiny, tmp_path / "planted"), what, marker)
    given = [RECIPES / "tiny.yaml", f"checkpoint.init_from={tmp_path / 'planted'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mimo_core.cli.mimo", "verify", *map(str, given), "--steps", "1"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode in (1, 2) and str(file) in done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr and not marker.exists()


OTHERS = (
    *("common.pt", "metadata.json", "random-00001.json", "an object", "extra.pt"),
    *("modelopt_state", "mp_rank_00/model_optim_rng.pt", "run_config.yaml"),
)
"""Files that a plan and an export do not need, and names that Megatron's other formats have."""


@pytest.mark.long
def test_a_plan_and_an_export_read_no_other_file_of_a_checkpoint(tiny: Run, tmp_path: Path) -> None:
    marker, folder = tmp_path / "ran", tmp_path / "planted"
    checkpoint = planted(tiny, folder)
    for what in OTHERS:
        plant(checkpoint, what, marker)
    for path in (folder / "summary.json", checkpoint.parent / "latest_checkpointed_iteration.txt"):
        path.write_bytes(zipped(Trap(marker)))
    assert "refused" not in mimo("export", folder, tmp_path / "out")
    plant(checkpoint, "a tensor", marker)
    plant(checkpoint, ".metadata", marker)
    recipe = RECIPES / "tiny.yaml"
    assert "refused" not in mimo("plan", recipe, f"checkpoint.init_from={folder}")
    (checkpoint / MANIFEST).write_bytes(pickle.dumps(Trap(marker)))
    assert MANIFEST in mimo("plan", recipe, f"checkpoint.init_from={folder}")
    call = f"!!python/object/apply:os.mkdir [{marker}]"
    (folder / "recipe.yaml").write_text(recipe.read_text().replace("size: 16", f"size: {call}", 1))
    for words in (("plan", recipe, f"checkpoint.init_from={folder}"), ("export", folder, "out")):
        assert mimo(*words).startswith("refused: ")
    assert not marker.exists()


def test_a_tokenizer_directory_is_used_without_its_code(tmp_path: Path) -> None:
    marker, directory = tmp_path / "ran", tmp_path / "tokenizer"
    directory.mkdir()
    words = {"<end>": 0, "<unk>": 1, **{letter: 2 + at for at, letter in enumerate("abc ")}}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>")).save(
        str(directory / "tokenizer.json")
    )
    auto = {"AutoTokenizer": ["trap.Trap", "trap.Trap"], "AutoProcessor": "trap.Trap"}
    config = {"eos_token": "<end>", "auto_map": auto, "tokenizer_class": "Trap"}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "trap.Trap"}}))
    (directory / "trap.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    (directory / "chat_template.jinja").write_text(
        f"{{{{ cycler.__init__.__globals__.os.mkdir({str(marker)!r}) }}}}"
    )
    for name in ("tokenizer.model", "vocab.pkl", "pytorch_model.bin"):
        (directory / name).write_bytes(zipped(Trap(marker)))
    recipe = RECIPES / "tiny.yaml"
    said = mimo("plan", recipe, f"tokenizer.path={directory}")
    assert "refused" not in said, said
    assert not marker.exists()


def test_a_weights_directory_is_used_without_its_code(tiny: Run, tmp_path: Path) -> None:
    marker, directory = tmp_path / "ran", tmp_path / "weights"
    before = os.umask(0o027)
    try:
        mimo("export", tiny.folder, directory, "--module", "language")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes and set(modes.values()) == {0o640}, modes
    (directory / "modeling_trap.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin"):
        (directory / name).write_bytes(zipped(Trap(marker)))
    recipe, weights = RECIPES / "tiny.yaml", f"modules.language.pretrained_weights={directory}"
    assert "refused" not in mimo("plan", recipe, weights)
    run = start("tiny", "train.iterations=1", weights, folder=tmp_path / "run")
    assert run.code == 0, run.errors
    auto = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM"), "modeling_trap.Trap")
    whole = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**whole, "auto_map": auto}))
    words = ("export", tiny.folder, tmp_path / "out", "--module", "language", "--like", directory)
    assert "refused" not in mimo(*words)
    config = {"model_type": "nemotron_h", "auto_map": auto}
    (directory / "config.json").write_text(json.dumps(config))
    assert "config.json lacks hidden_size" in mimo("plan", recipe, weights)
    (directory / "config.json").unlink()
    for path in directory.glob("*.safetensors*"):
        path.unlink()
    assert "would have to be unpickled" in mimo("plan", recipe, weights)
    assert not marker.exists()


def test_reading_weights_runs_nothing_and_names_the_file(tiny: Run, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    checkpoint = planted(tiny, tmp_path / "run")
    file = plant_item(checkpoint, is_tensor, zipped(Trap(marker)))
    opened = Checkpoint(checkpoint)
    with refused("checkpoint.foreign-content", file=str(file)) as caught:
        for key in opened.keys:
            opened.read(key, ())
    assert "mkdir" in caught.value.values["name"]
    for damage in (b"", b"PK\x03\x04", pickle.dumps(Trap(marker)), os.urandom(100)):
        for path in (checkpoint / ".metadata",):
            path.write_bytes(damage)
            with pytest.raises(MimoError) as refusal:
                Checkpoint(checkpoint)
            assert refusal.value.code in ("checkpoint.damaged", "checkpoint.foreign-content")
            assert refusal.value.values["file"] == str(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "module, name",
    [
        ("evil_module", "float32"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch", "serialization.os.system"),
        ("builtins", "eval"),
        ("torch.distributed.checkpoint.metadata", "torch.hub.load"),
    ],
)
def test_a_name_that_is_not_listed_is_neither_looked_up_nor_imported(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / ".metadata"
    text = b"".join(
        b"\x8c" + len(part).to_bytes(1, "little") + part.encode() for part in (module, name)
    )
    path.write_bytes(b"\x80\x04" + text + b"\x93.")
    whole = f"{module}.{name}"
    facts = {"file": str(path), "name": whole}
    with path.open("rb") as file, refused("checkpoint.foreign-content", **facts):
        restricted_unpickler.read_metadata(file)
    assert not (tmp_path / "ran").exists() and "evil_module" not in sys.modules


def test_metadata_names_only_files_of_its_folder(tiny: Run, tmp_path: Path) -> None:
    checkpoint = planted(tiny, tmp_path / "run")
    metadata = pickle.loads((checkpoint / ".metadata").read_bytes())
    index, info = next(iter(metadata.storage_data.items()))
    metadata.storage_data[index] = type(info)("../../../etc/passwd", info.offset, info.length)
    (checkpoint / ".metadata").write_bytes(pickle.dumps(metadata))
    with refused("checkpoint.foreign-content", name="../../../etc/passwd"):
        Checkpoint(checkpoint)

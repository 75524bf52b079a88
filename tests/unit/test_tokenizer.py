"""Token ids: bytes, Hugging Face directories, placeholders."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers

from mimo_core.errors import RecipeError
from mimo_core.planning.model_graph import build_graph
from mimo_core.recipe import load_text
from mimo_core.tokenizer import Tokenizer, make_tokenizer

from ..helpers.fake_plugins import RECIPE, host

BYTES = make_tokenizer(None, ["<image>", "<sound>"])
CAPTIONS = [
    "a red square on a table",
    "two red squares, größer than a table ⚙",
    "a blue circle",
    "  indented\n\n\ttext",
    "</s> <image> <s> in a caption, <pad> too",
]


def byte_level_bpe() -> tokenizers.Tokenizer:
    """``<s>`` 0, ``</s>`` 1, ``<pad>`` 2, bytes, merges, ``<sound>``; ``<s>`` begins a text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CAPTIONS[:3] * 3, trainer)
    backend.add_tokens([AddedToken("<sound>", special=False)])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return backend


def save(backend: tokenizers.Tokenizer, folder: Path, **roles: object) -> Path:
    """As ``save_pretrained`` lays it out."""
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    return folder


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizers") / "bpe"
    return save(byte_level_bpe(), folder, eos_token="</s>", pad_token={"content": "<pad>"})


def test_bytes_come_first_then_specials_then_placeholders_in_order():
    assert (BYTES.pad, BYTES.end, BYTES.begin, BYTES.size) == (256, 257, (), 260)
    assert BYTES.placeholder_id("<image>") == 258
    assert BYTES.placeholder_id("<sound>") == 259
    assert make_tokenizer(None, []).size == 258


@pytest.mark.parametrize("text", ["", "seven", "größe ⚙", "a <image> b", "\x00\n"])
def test_bytes_come_back_and_make_no_special_id(text):
    ids = BYTES.encode(text)
    assert ids == list(text.encode())
    assert BYTES.decode(ids) == text


def test_specials_are_dropped_and_broken_bytes_replaced():
    assert BYTES.decode([258, 104, 105, 257, 256, 259]) == "hi"
    assert BYTES.decode([0xC3]) == "\ufffd"


def test_a_placeholder_outside_the_vocabulary_is_refused():
    with pytest.raises(RecipeError, match="'<video>' is not in the vocabulary; it has '<image>'"):
        BYTES.placeholder_id("<video>")


def test_a_placeholder_given_twice_is_refused():
    with pytest.raises(RecipeError, match="'<image>' is given 2 times"):
        make_tokenizer(None, ["<image>", "<image>"])


def test_ids_and_texts_are_those_of_transformers(directory: Path, tmp_path: Path):
    """AutoTokenizer, told to split specials in text, says what a text's ids are."""
    code = """if True:
        import json, sys
        from transformers import AutoTokenizer, PreTrainedTokenizerFast
        source, target, captions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
        PreTrainedTokenizerFast(
            tokenizer_file=source + "/tokenizer.json", bos_token="<s>", eos_token="</s>",
            pad_token="<pad>",
        ).save_pretrained(target)
        saved = AutoTokenizer.from_pretrained(target)
        ids = [
            saved(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            for text in captions
        ]
        texts = [saved.decode(row, skip_special_tokens=True) for row in ids]
        print(json.dumps([ids, texts, saved.eos_token_id, saved.pad_token_id, len(saved)]))
    """
    command = [sys.executable, "-c", code, str(directory), str(tmp_path), json.dumps(CAPTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    ids, texts, end, pad, size = json.loads(done.stdout)
    ours = make_tokenizer(str(tmp_path), [])
    assert [ours.encode(text) for text in CAPTIONS] == ids
    assert [ours.decode(row) for row in ids] == texts == CAPTIONS
    assert (ours.end, ours.pad, ours.size, ours.begin) == (end, pad, size, (0,))


def test_placeholders_keep_ids_they_have_and_others_follow(directory: Path):
    plain = make_tokenizer(str(directory), [])
    sound = plain.size - 1
    tokenizer = make_tokenizer(str(directory), ["<sound>", "<image>", "<video>"])
    assert tokenizer.placeholder_id("<sound>") == sound
    assert tokenizer.placeholder_id("<image>") == plain.size
    assert tokenizer.placeholder_id("<video>") == plain.size + 1 == tokenizer.size - 1
    assert make_tokenizer(str(directory), ["<sound>"]).size == plain.size


@pytest.mark.parametrize("text", [CAPTIONS[-1], "<sound>", "a <sound></s>b"])
def test_text_makes_no_special_id_and_comes_back(directory: Path, text: str):
    tokenizer = make_tokenizer(str(directory), ["<sound>", "<image>"])
    special = {tokenizer.end, tokenizer.pad, *tokenizer.begin, *tokenizer.ids.values()}
    for one in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):
        ids = one.encode(text)
        assert not special & set(ids)
        assert one.decode([*one.begin, *special, *ids, one.end, one.size + 5]) == text


def test_a_model_that_has_specials_as_pieces_spells_them_in_text(tmp_path: Path):
    pieces = ["<unk>", "</s>", "<image>", "a", "<", "/", "s", ">"]
    backend = tokenizers.Tokenizer(
        models.Unigram([(piece, -float(place)) for place, piece in enumerate(pieces)], unk_id=0)
    )
    backend.add_special_tokens(["<unk>", "</s>", "<image>"])
    save(backend, tmp_path, eos_token="</s>", unk_token="<unk>")
    tokenizer = make_tokenizer(str(tmp_path), ["<image>"])
    assert tokenizer.placeholder_id("<image>") == 2
    assert tokenizer.encode("a</s>ö<a") == [3, 4, 5, 6, 7, 0, 4, 3]
    assert not {1, 2} & {*tokenizer.encode("a<image>a")}


def test_what_a_saved_tokenizer_was_doing_is_undone(tmp_path: Path):
    """Truncation, padding and BPE dropout would make other ids than the text's, or change them."""
    backend = byte_level_bpe()
    text = CAPTIONS[0]
    ids = backend.encode(text, add_special_tokens=False).ids
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    backend.model.dropout = 0.9
    tokenizer = make_tokenizer(str(save(backend, tmp_path, eos_token="</s>")), [])
    assert [tokenizer.encode(text) for _ in range(5)] == [ids] * 5


def test_roles_come_from_either_file_and_padding_defaults_to_the_end(tmp_path: Path):
    save(byte_level_bpe(), tmp_path)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": {"content": "</s>"}}')
    tokenizer = make_tokenizer(str(tmp_path), [])
    assert (tokenizer.end, tokenizer.pad) == (1, 1)


def test_a_beginning_is_what_the_post_processor_puts_in_front(tmp_path: Path):
    backend = byte_level_bpe()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> <pad> $A", special_tokens=[("<s>", 0), ("<pad>", 2)]
    )
    save(backend, tmp_path, eos_token="</s>")
    assert make_tokenizer(str(tmp_path), []).begin == (0, 2)
    backend.post_processor = processors.ByteLevel()
    save(backend, tmp_path, eos_token="</s>")
    assert make_tokenizer(str(tmp_path), []).begin == ()


@pytest.mark.parametrize("symbol", ["<s>", "</s>", "<pad>"])
def test_a_placeholder_is_no_token_of_another_role(directory: Path, symbol: str):
    with pytest.raises(RecipeError, match=f"placeholder '{symbol}' begins, ends or pads"):
        make_tokenizer(str(directory), [symbol])


def test_digests_differ_where_ids_may(directory: Path, tmp_path: Path):
    def digest(folder: Path | None, *placeholders: str) -> str:
        return make_tokenizer(folder and str(folder), placeholders).digest

    same = save(byte_level_bpe(), tmp_path, eos_token="</s>", pad_token="<pad>")
    assert digest(same, "<a>") == digest(directory, "<a>")
    other_end = save(byte_level_bpe(), tmp_path / "end", eos_token="<s>", pad_token="<pad>")
    backend = byte_level_bpe()
    backend.add_tokens(["word"])
    other_text = save(backend, tmp_path / "text", eos_token="</s>", pad_token="<pad>")
    different = [
        digest(directory, "<a>"),
        digest(directory, "<a>", "<b>"),
        digest(directory, "<b>", "<a>"),
        digest(other_end, "<a>"),
        digest(other_text, "<a>"),
        digest(None, "<a>"),
    ]
    assert len(set(different)) == len(different)


def _graph(directory: Path) -> Tokenizer:
    loaded = load_text(f"{RECIPE}\ntokenizer: {{path: {directory}}}\n", "recipe.yaml")
    return build_graph(loaded, host()).tokenizer


def test_the_recipe_names_the_directory(directory: Path):
    tokenizer = _graph(directory)
    assert tokenizer.placeholders == ("<vision>",)
    assert tokenizer.end == 1


def _no_end(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")


def _strange_end(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<stop>"}')


def _broken(name: str):
    return lambda folder: (folder / name).write_text('{"version": ')


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), r"save_pretrained\('.*bpe'\)"),
        (_broken("tokenizer.json"), "tokenizer.json cannot be read as a tokenizer: .*save it"),
        (_broken("tokenizer_config.json"), "tokenizer_config.json cannot be read as JSON: "),
        (_no_end, "tokenizer_config.json names no 'eos_token'.*; add "),
        (
            _strange_end,
            "tokenizer_config.json names the token '<stop>', which .*tokenizer.json does not",
        ),
    ],
    ids=["none", "broken", "broken-config", "no-end", "strange-end"],
)
def test_a_directory_that_is_no_tokenizer(tmp_path: Path, spoil, message: str):
    folder = save(byte_level_bpe(), tmp_path / "bpe", eos_token="</s>")
    spoil(folder)
    with pytest.raises(RecipeError, match=message) as caught:
        _graph(folder)
    assert caught.value.path == ("tokenizer", "path")


def test_a_directory_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=rf"tok does not exist \(in full: {tmp_path}/tok\)"):
        make_tokenizer("tok", [])
    (tmp_path / "tok").write_text("{}")
    with pytest.raises(RecipeError, match="tok is a file, not a directory"):
        make_tokenizer("tok", [])


def test_planning_without_a_directory_does_not_load_the_library():
    code = (
        "import sys; from mimo_core.tokenizer import make_tokenizer; make_tokenizer(None, []);"
        "print('tokenizers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_forked_workers_say_nothing_of_parallelism(directory: Path):
    """The library warns in every fork of a process that used its threads."""
    code = """if True:
        import os, sys
        from mimo_core.tokenizer import make_tokenizer
        tokenizer = make_tokenizer(sys.argv[1], ["<image>"])
        ids = tokenizer.encode("a red square " * 2000)
        if child := os.fork():
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(tokenizer.decode(ids) != "a red square " * 2000)
    """
    command = [sys.executable, "-c", code, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=1800)
    assert done.stdout + done.stderr == ""

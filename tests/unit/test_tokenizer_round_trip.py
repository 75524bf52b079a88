"""Text comes back from its ids piece by piece, or the plan reports what does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, processors

from mimo_core.contract import LANGUAGE
from mimo_core.errors import RecipeError, SampleError
from mimo_core.planning.model_graph import build_graph
from mimo_core.planning.sequence_budget import pieces
from mimo_core.recipe import load_text
from mimo_core.tokenizer import Tokenizer, make_tokenizer

from ..helpers.fake_plugins import RECIPE, host
from ..helpers.problems import refused
from ..helpers.tokenizer_family import (
    BYTES,
    LOSSLESS,
    LOSSY,
    SPECIALS,
    byte_level,
    pieces_bpe,
    save,
)

WORDS = [*SPECIALS, *BYTES[::50], "<tool>", "<image>", "red", "red sq", "▁", "##s", "Ġ", "</w>"]
"""What a tokenizer may read otherwise than as characters."""
TEXT = st.lists(
    st.one_of(
        st.text(max_size=4),
        st.sampled_from([" ", "  ", "\n", "\t", "\u00a0", "\u200b", "e\u0301", "🙂", "\x00"]),
        st.text(st.sampled_from("aAbs019.,'! \n"), max_size=4),
        st.sampled_from(WORDS),
    ),
    max_size=4,
).map("".join)
"""Unicode, blanks, digits, emojis, and the tokenizer's own symbols; no half surrogate pairs."""


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("family")
    made = {**LOSSLESS, **{name: make for name, (make, _) in LOSSY.items()}}
    return {name: save(make(), folder / name) for name, make in made.items()}


class Family(dict[str, Tokenizer]):
    """By their names; shown in a line where a test fails."""

    def __repr__(self) -> str:
        return f"Family({', '.join(self)})"


@pytest.fixture(scope="module")
def family(directories: dict[str, Path]) -> Family:
    made = {name: make_tokenizer(str(folder), ["<image>"]) for name, folder in directories.items()}
    return Family({**made, "bytes": make_tokenizer(None, ["<image>"])})


def comes_back(tokenizer: Tokenizer, first: str, second: str) -> bool:
    ids, more = tokenizer.encode(first), tokenizer.encode(second)
    start_ids = tokenizer.encode(first, start=True) + tokenizer.encode(second, start=not first)
    sample = [*tokenizer.begin, *start_ids, tokenizer.end]
    start = None if tokenizer.begin else True
    return tokenizer.decode(ids + more) == tokenizer.decode(sample, start=start) == first + second


@pytest.mark.parametrize("name", [*LOSSLESS, "bytes"])
@settings(max_examples=150, deadline=None)
@given(first=TEXT, second=TEXT)
def test_pieces_come_back_as_the_text(family: Family, name: str, first: str, second: str) -> None:
    tokenizer = family[name]
    assert tokenizer.notes == ()
    assert comes_back(tokenizer, first, second)
    special = {tokenizer.end, tokenizer.pad, *tokenizer.begin, *tokenizer.ids.values()}
    assert not special & {*tokenizer.encode(first), *tokenizer.encode(first, start=True)}


@pytest.mark.parametrize("name", LOSSY)
def test_what_a_tokenizer_loses_is_in_the_plan(
    directories: dict[str, Path], family: Family, name: str
) -> None:
    (note,) = family[name].notes
    assert LOSSY[name][1] in note
    recipe = f"{RECIPE}\ntokenizer: {{path: {directories[name]}}}\n"
    assert note in build_graph(load_text(recipe, "recipe.yaml"), host()).notes


def test_whole_texts_have_the_ids_of_transformers(
    directories: dict[str, Path], family: Family
) -> None:
    """Of texts that start with no blank: Metaspace gives ``a`` and `` a`` the same ids, from which
    no text can be told; here they differ."""
    texts = ["a red square", "Größer 1999", "9", "\n a", "x  y ", "中🙂e\u0301", "</s> in <pad> it"]
    code = """if True:
        import json, sys
        from transformers import AutoTokenizer
        texts = json.loads(sys.argv[1])
        for folder in sys.argv[2:]:
            auto = AutoTokenizer.from_pretrained(folder)
            options = dict(split_special_tokens=True, add_special_tokens=False)
            ids = [auto(text, **options)["input_ids"] for text in texts]
            whole = [auto(text, split_special_tokens=True)["input_ids"] for text in texts]
            print(json.dumps([ids, whole, len(auto)]))
    """
    command = [sys.executable, "-c", code, json.dumps(texts), *map(str, directories.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    wrong = {}
    for name, line in zip(directories, done.stdout.splitlines(), strict=True):
        ids, whole, size = json.loads(line)
        tokenizer = family[name]
        # Where a Unigram model has specials among its pieces, transformers writes them.
        reserved = {*tokenizer.begin, tokenizer.end, tokenizer.pad}
        for text, due, due_whole in zip(texts, ids, whole, strict=True):
            got = tokenizer.encode(text, start=True)
            if got != due and not reserved & {*due}:
                wrong[name, text] = got, due
            begin = due_whole[: len(due_whole) - len(due)]
            if begin != list(tokenizer.begin):
                wrong[name, "begin"] = tokenizer.begin, begin
        if make_tokenizer(str(directories[name]), []).size != size:
            wrong[name, "size"] = size
    assert not wrong


def test_a_sample_has_its_blank_once(tmp_path: Path) -> None:
    """Prompt and text are encoded one by one; the begin and the blank stand before the first."""
    from mimo_core.contract import Sample, Text

    folder = save(pieces_bpe("first"), tmp_path)
    recipe = f"{RECIPE}\ntokenizer: {{path: {folder}}}\n"
    graph = build_graph(load_text(recipe, "recipe.yaml"), host())
    texts = ["", "a red", "square", " on"]
    sample = Sample(key="0", content=tuple(Text(text=text, is_target=True) for text in texts))
    ids = [id_ for piece in pieces(graph, sample) for id_ in piece.ids]
    tokenizer = graph.tokenizer
    whole = tokenizer.encode("a redsquare on", start=True)
    assert tokenizer.decode(ids) == "a redsquare on" == tokenizer.decode(whole, start=True)
    assert ids[: len(tokenizer.begin)] == list(tokenizer.begin)
    assert LANGUAGE in graph.modules


@pytest.mark.parametrize("name", ["bpe-first", "unigram-always", "byte-level"])
def test_a_text_that_spells_a_token_is_characters(family: Family, name: str) -> None:
    tokenizer = family[name]
    for symbol in (*SPECIALS, "<0x41>", "<0x0A>", "<image>"):
        for text in (symbol, f"a{symbol}", f"{symbol}{symbol} b"):
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("file", ["tokenizer_config.json", "added_tokens.json"])
def test_tokens_of_other_files_are_added(tmp_path: Path, file: str) -> None:
    made = byte_level()
    size = made[0].get_vocab_size()
    entries: dict[str, Any] = {"<tool>": size, "<|im_end|>": size + 1}
    decoder = {
        str(id_): {"content": token, "special": token == "<|im_end|>"}
        for token, id_ in entries.items()
    }
    if file == "added_tokens.json":
        folder = save(made, tmp_path, eos_token="<|im_end|>")
        (folder / file).write_text(json.dumps(entries))
    else:
        folder = save(made, tmp_path, eos_token="<|im_end|>", added_tokens_decoder=decoder)
    tokenizer = make_tokenizer(str(folder), ["<image>", "<tool>"])
    assert (tokenizer.end, tokenizer.placeholder_id("<tool>")) == (size + 1, size)
    assert tokenizer.placeholder_id("<image>") == size + 2
    plain = make_tokenizer(str(folder), [])
    assert plain.encode("<tool>") == [size]
    assert plain.decode(plain.encode("a<tool>")) == "a<tool>"
    assert plain.digest != make_tokenizer(str(save(byte_level(), tmp_path / "x")), []).digest


@pytest.mark.parametrize("key", ["additional_special_tokens", "extra_special_tokens"])
def test_special_tokens_that_are_only_listed_are_added(tmp_path: Path, key: str) -> None:
    made = byte_level()
    size = made[0].get_vocab_size()
    folder = save(made, tmp_path, **{key: ["<image>", {"content": "<video>"}]})
    tokenizer = make_tokenizer(str(folder), ["<video>"])
    assert (tokenizer.placeholder_id("<video>"), tokenizer.size) == (size + 1, size + 2)
    assert tokenizer.decode(tokenizer.encode("a <image>")) == "a <image>"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"added_tokens_decoder": {"7": {"content": "<s>"}}}, "'<s>' the id 7, but it is 1 by "),
        ({"added_tokens_decoder": {"9000": {"content": "<x>"}}}, "'<x>' the id 9000, but it is"),
        ({"added_tokens_decoder": {"x": {"content": "<x>"}}}, "added_tokens_decoder.x is "),
        ({"added_tokens_decoder": {"9": {}}}, "added_tokens_decoder.9 is {}, not a token"),
        ({"added_tokens_decoder": []}, None),
        ({"added_tokens_decoder": [1]}, "added_tokens_decoder that is no object"),
        ({"extra_special_tokens": [7]}, "extra_special_tokens has 7, which is no token"),
        ({"add_bos_token": True, "bos_token": "<|b|>"}, None),
    ],
)
def test_files_that_disagree_are_refused(
    tmp_path: Path, config: dict[str, Any], message: str | None
) -> None:
    folder = save(byte_level(), tmp_path, **config)
    if message is None:
        make_tokenizer(str(folder), [])
        return
    with pytest.raises(RecipeError, match=message):
        make_tokenizer(str(folder), [])


@pytest.mark.parametrize(
    ("config", "begin"),
    [
        ({}, (1,)),
        ({"add_bos_token": False}, ()),
        ({"add_bos_token": True}, (1,)),
        ({"add_eos_token": True}, ()),
    ],
)
def test_the_configuration_decides_whether_a_text_begins_with_a_token(
    tmp_path: Path, config: dict[str, Any], begin: tuple[int, ...]
) -> None:
    """As in transformers 5: either key replaces the post-processor."""
    assert make_tokenizer(str(save(byte_level(), tmp_path, **config)), []).begin == begin


def test_a_begin_is_found_where_the_first_letter_has_no_token(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models

    backend = Backend(models.BPE({**{token: i for i, token in enumerate(SPECIALS)}, "z": 4}, []))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(SPECIALS)
    assert make_tokenizer(str(save((backend, {"eos_token": "</s>"}), tmp_path)), []).begin == (1,)


def test_a_placeholder_of_the_vocabulary_keeps_its_id(tmp_path: Path) -> None:
    """A symbol that is in the model's vocabulary without being an added token."""
    made = byte_level()
    content = json.loads(made[0].to_str())
    content["model"]["vocab"]["<image>"] = id_ = len(content["model"]["vocab"])
    folder = save(made, tmp_path)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = make_tokenizer(str(folder), ["<image>"])
    assert tokenizer.placeholder_id("<image>") == id_
    assert tokenizer.size == id_ + 1
    assert id_ not in tokenizer.encode("<image> x")
    words = (piece for piece in content["model"]["vocab"] if piece.isascii())
    word = next(piece for piece in words if piece.isalpha() and len(piece) > 2)
    with pytest.raises(RecipeError, match=f"placeholder '{word}' is a piece that the tokenizer"):
        make_tokenizer(str(folder), [word])


def test_a_text_that_can_only_be_a_special_token_is_refused(tmp_path: Path) -> None:
    made = byte_level()
    made[0].add_special_tokens([AddedToken("a", special=True)])
    folder = save(made, tmp_path, eos_token="a")
    with refused("sample.no-tokens", SampleError, text="a", token="a"):
        make_tokenizer(str(folder), []).encode("a")


def test_half_a_surrogate_pair_is_a_broken_sample(family: Family) -> None:
    for tokenizer in family.values():
        with refused("sample.no-tokens", SampleError):
            tokenizer.encode("a \ud800")

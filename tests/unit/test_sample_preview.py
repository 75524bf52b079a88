"""What the plan says of the samples that a dataset's plugin shows."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, models

from mimo_core import MediaItem, Sample, Text, hookimpl
from mimo_core.errors import RecipeError
from mimo_core.planning.plan import make_plan

from ..helpers.fake_plugins import RECIPE, eye, host, pairs, words
from ..helpers.problems import facts

PICTURE = MediaItem(modality="image", shape=(8, 8), load=lambda generator: None)


def shows(*samples: tuple[Text | MediaItem, ...], notes: tuple[str, ...] = ()) -> object:
    @hookimpl
    def preview_samples(data):
        return [Sample(key=f"pairs/{at}", content=parts) for at, parts in enumerate(samples)]

    @hookimpl
    def preview_notes(data):
        return list(notes)

    return pairs(preview_samples=preview_samples, preview_notes=preview_notes)


def plan(tmp_path, *overrides: str, **plugins: object):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return make_plan(str(path), overrides, host=host(**plugins))


TEXT = (Text(text="a cat", is_target=True),)


def test_an_encoder_that_no_sample_feeds_is_refused_with_the_notes_of_the_data(tmp_path) -> None:
    with pytest.raises(RecipeError) as caught:
        plan(tmp_path, pairs=shows(TEXT, TEXT, notes=("nothing reads 'img'",)))
    ((code, place, values),) = facts(caught.value)
    assert (code, values) == ("data.encoder-not-fed", {"encoder": "vision", "samples": 2})
    assert place.endswith(": data")
    assert caught.value.text.splitlines()[1:] == ["nothing reads 'img'"]


def test_one_sample_that_feeds_an_encoder_is_enough(tmp_path) -> None:
    found = plan(tmp_path, pairs=shows(TEXT, (PICTURE, *TEXT), notes=("a note",)))
    assert found.data_notes == ("a note",)


def test_a_second_encoder_that_nothing_feeds_is_named(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    second = "  ears: {plugin: eye, grid: {dp: 2}}\n  language:\n"
    path.write_text(RECIPE.replace("  language:\n", second))

    @hookimpl
    def describe_module(module):
        plain = eye().describe_module(module)
        accepts = "sound" if module.name == "ears" else "image"
        return type(plain)(
            **{
                name: accepts if name == "modality" else getattr(plain, name)
                for name in (field.name for field in plain.__attrs_attrs__)
            }
        )

    plugins = host(eye=eye(describe_module=describe_module), pairs=shows((PICTURE, *TEXT)))
    with pytest.raises(RecipeError, match="encoder 'ears' reads media of kind 'sound'"):
        make_plan(str(path), host=plugins)


def test_a_text_that_spells_a_placeholder_is_pointed_at(tmp_path) -> None:
    spelled = (PICTURE, Text(text="look: <vision>"), *TEXT)
    (note,) = plan(tmp_path, pairs=shows((PICTURE, *TEXT), spelled)).data_notes
    assert note == (
        "1 of 2 samples that the plan looked at spell '<vision>' in their text, pairs/1 is the "
        "first: text makes no special token, so it becomes 8 ids instead of its own, 258"
    )


@pytest.mark.parametrize("base", [(), ("<|im_start|>", "<ab>")])
def test_a_text_that_spells_a_special_token_is_pointed_at(tmp_path, base) -> None:
    """``base``: pieces of the model itself; text makes the second one."""
    vocabulary = [*"abc<|>_imstr", "<a", "<ab", *base]
    merges = [("<", "a"), ("<a", "b"), ("<ab", ">")] if base else []
    backend = Tokenizer(
        models.BPE(vocab={piece: at for at, piece in enumerate(vocabulary)}, merges=merges)
    )
    special = [token for token in ("<|im_start|>", "<|end|>") if token not in base]
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    backend.add_tokens([AddedToken("cab", special=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    told = shows(
        (PICTURE, Text(text="<|im_start|>a cab <ab>", is_target=True)), (PICTURE, Text(text="a"))
    )
    (note,) = plan(tmp_path, f"tokenizer.path={tmp_path}", words=words(), pairs=told).data_notes
    assert note.startswith("1 of 2 samples that the plan looked at spell '<|im_start|>' in")
    assert "ids instead of its own" in note


@pytest.mark.parametrize("data", ["{plugin: digits}", "{plugin: mock}"])
def test_an_encoder_that_a_dataset_of_this_repository_cannot_feed_is_refused(data: str) -> None:
    ears = (
        "{plugin: radio, options: {media: sonar, placeholder: <sonar>, hidden_size: 64, layers: 2, "
        "heads: 4, image_size: 32, max_image_size: 32, patch_size: 8}}"
    )
    with pytest.raises(RecipeError, match="encoder 'ears' reads media of kind 'sonar', but none"):
        make_plan("demo", [f"data={data}", f"modules.ears={ears}", "train.sequence_length=512"])

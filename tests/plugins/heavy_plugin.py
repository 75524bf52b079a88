"""Imports what is heavy and prints when it is listed; its samples lie in an order that hashes tell.

The heavy packages are empty ones that the test puts beside it.
"""

import transformer_engine

import mimo_core as mimo

mimo_contract = "1.0"

print("hello")

WORDS = {"zero", "one", "two", "three", "four", "five", "six"}


class Words:
    def __len__(self) -> int:
        return len(WORDS)

    def __getitem__(self, index: int) -> mimo.Sample:
        word = list(WORDS)[index]
        return mimo.Sample(key=word, content=(mimo.Text(text=word, is_target=True),))


@mimo.hookimpl
def build_dataset(data: mimo.DatasetConfig, split: mimo.Split) -> Words:
    assert transformer_engine
    return Words()


@mimo.hookimpl
def preview_samples(data: mimo.DatasetConfig) -> list[mimo.Sample]:
    import mamba_ssm

    assert mamba_ssm
    return [Words()[0]]

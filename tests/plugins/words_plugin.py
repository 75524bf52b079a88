"""A dataset of text alone, as a stranger would ship it; installed by the tests that use it."""

import mimo_core as mimo

mimo_contract = "1.0"

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Words:
    """Number ``i`` in words, digit by digit."""

    metric = "exact_words"

    def __init__(self, split: mimo.Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> mimo.Sample:
        return mimo.Sample(
            key=f"words/{self._split}/{index}",
            content=(
                mimo.Text(text=f"{index % 10}:"),
                mimo.Text(text=WORDS[index % 10], is_target=True),
            ),
        )


@mimo.hookimpl
def build_dataset(data: mimo.DatasetConfig, split: mimo.Split) -> Words:
    return Words(split)

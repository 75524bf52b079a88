"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "lora.no-such-layer": (
        "A pattern of `targets` names no linear layer of the adapted parts.",
        "Use names of the layers that the message lists.",
    ),
    "lora.not-adaptable": (
        "A part or a layer is of a kind that adapters cannot be added to.",
        "Leave it out of `parts` or `targets`.",
    ),
    "lora.rank-too-large": (
        "The rank is above the smaller side of a layer.",
        "Lower `rank`, or leave the layer out of `targets`.",
    ),
}
"""By code."""

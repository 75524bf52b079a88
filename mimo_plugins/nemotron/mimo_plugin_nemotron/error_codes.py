"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "nemotron.cpu-scan": (
        "The Mamba2 layer is used in a way that the CPU's scan does not compute.",
        "Leave the arguments at their defaults, or run on a GPU with mamba_ssm.",
    ),
    "nemotron.no-kernels": (
        "Packages that Mamba2 layers need on a GPU are not installed.",
        "Install them; the message has the command.",
    ),
}
"""By code."""

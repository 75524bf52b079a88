"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "whisper.other-frames": (
        "The feature extractor of the directory computes other frames than the plugin.",
        "Set the options that the message names, or use other weights.",
    ),
}
"""By code."""

"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "spoken-digits.long-recording": (
        "A recording can take longer than a sound of a sample.",
        "Raise `data.options.seconds`, or lower `speed`.",
    ),
    "spoken-digits.no-recording": (
        "A directory of `voices` lacks the recording of a digit.",
        "Name directories that have `0.wav` to `9.wav`.",
    ),
    "spoken-digits.silent-recording": (
        "A recording is silent.",
        "Replace the file.",
    ),
    "spoken-digits.unreadable-recording": (
        "A recording is no WAV file of 16-bit PCM, or is damaged.",
        "Convert it; the message has a command.",
    ),
}
"""By code."""

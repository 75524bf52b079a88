"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "captions.broken-lines": (
        "Lines of the file, or images that they name, are broken.",
        "Correct or remove them, or set `data.options.broken` to `skip`.",
    ),
    "captions.empty-file": (
        "The file has no lines.",
        "Give a file of samples.",
    ),
    "captions.empty-split": (
        "A split has no samples.",
        "Change `data.options.held_out`, or give more samples.",
    ),
    "captions.file-changed": (
        "A line or an image is not what it was when the run started.",
        "Restore it; while a run reads the file, only add lines at its end.",
    ),
    "captions.invalid-header": (
        "The header of a CSV file is missing or cannot be read.",
        "Start the file with a line of distinct column names, separated by commas.",
    ),
    "captions.line-too-long": (
        "A line has too many bytes.",
        "Give a file with one sample on each line.",
    ),
    "captions.unknown-field": (
        "The file has no field or column of the name that an option gives.",
        "Set the option to the name of one that the file has.",
    ),
    "captions.unreadable-image": (
        "An image exists, but the system refuses to read it.",
        "Correct the access of the file.",
    ),
}
"""By code."""

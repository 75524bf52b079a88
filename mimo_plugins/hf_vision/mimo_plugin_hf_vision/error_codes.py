"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "hf-vision.invalid-value": (
        "A file of the model has a value of a wrong type or out of range.",
        "Correct the file, or set the option that the message names.",
    ),
    "hf-vision.missing-key": (
        "A file of the model lacks a key that the plugin needs.",
        "Add it to the file, or set the option that the message names.",
    ),
    "hf-vision.not-downloaded": (
        "The model is neither on this machine nor can it be downloaded.",
        "Correct the name, or download it elsewhere; the message has the command.",
    ),
    "hf-vision.other-positions": (
        "The tower makes another number of positions of an image than the plugin expects.",
        "Set the option `class_tokens` to the number of its tokens that are no patches.",
    ),
    "hf-vision.several-sizes": (
        "The image processor does not give all images one size.",
        "Set the option `image_size`.",
    ),
    "hf-vision.unsupported-model": (
        "The tower is of a kind that the plugin or the installed transformers does not build.",
        "Use another model, or install the version of transformers that knows it.",
    ),
    "hf-vision.unsupported-processor": (
        "The image processor does what the plugin does not do.",
        "Change the key as the message says, if the pixels stay those of the tower's training.",
    ),
    "hf-vision.unsupported-rows": (
        "The whole model reads rows of its tower that the plugin does not make.",
        "Set the option that the message names.",
    ),
}
"""By code."""

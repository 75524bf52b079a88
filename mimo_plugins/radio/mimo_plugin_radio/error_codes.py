"""The codes of this plugin's errors, each with its cause and its remedy."""

ERROR_CODES = {
    "radio.no-flash-attention": (
        "flash-attn-4 cannot be imported, or its kernels are not tested on this GPU.",
        "Install it, or leave the option `flash_attention` out.",
    ),
}
"""By code."""

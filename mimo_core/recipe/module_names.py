"""Names that a module of a recipe may have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from mimo_core.contract import LANGUAGE
from mimo_core.errors import Problem, nearest

_TORCH = (
    "torch has an attribute of this name in the container of the encoders (torch.nn.ModuleDict)"
)
_CONTAINER = (
    *("T_destination", "add_module", "apply", "bfloat16", "buffers", "call_super_init"),
    *("children", "clear", "compile", "cpu", "cuda", "double", "dump_patches", "eval"),
    *("extra_repr", "float", "forward", "get_buffer", "get_extra_state", "get_parameter"),
    *("get_submodule", "half", "ipu", "items", "keys", "load_state_dict", "modules", "mtia"),
    *("named_buffers", "named_children", "named_modules", "named_parameters", "parameters", "pop"),
    *("register_backward_hook", "register_buffer", "register_forward_hook"),
    *("register_forward_pre_hook", "register_full_backward_hook"),
    *("register_full_backward_pre_hook", "register_load_state_dict_post_hook"),
    *("register_load_state_dict_pre_hook", "register_module", "register_parameter"),
    *("register_state_dict_post_hook", "register_state_dict_pre_hook", "requires_grad_"),
    *("set_extra_state", "set_submodule", "share_memory", "state_dict", "to", "to_empty", "train"),
    *("training", "type", "update", "values", "xpu", "zero_grad"),
)
RESERVED: Mapping[str, str] = {
    **dict.fromkeys(_CONTAINER, _TORCH),
    "text": "Megatron keeps the embeddings of the text under this name, so the rows of an encoder "
    "of this name would be overwritten (megatron-core 0.19, models/mimo/model/base.py)",
}
"""Names that no module may have, with the reason. Names that begin with an underscore are refused
too."""


def module_names(names: Collection[str]) -> Iterator[Problem]:
    """One language model, and names that torch, Megatron and a path of the recipe can hold."""
    if LANGUAGE not in names:
        given, near = ", ".join(names) or "none", nearest(LANGUAGE, names)
        yield Problem(
            f"one module must be named {LANGUAGE!r}, the language model; given: {given}"
            + (f". Rename {near!r}?" if near else ""),
            "recipe.no-language-model",
            (),
            {"given": tuple(names)},
        )
    for name in names:
        if not name.isidentifier() or name.startswith("_"):
            yield Problem(
                f"{name!r} is no name; use letters, digits and _, a letter first",
                "recipe.module-name",
                (name,),
                {"name": name},
            )
        elif name in RESERVED:
            yield Problem(
                f"no module can be named {name!r}: {RESERVED[name]}; rename it, for example "
                f"'my_{name.strip('_')}'",
                "recipe.module-name",
                (name,),
                {"name": name},
            )

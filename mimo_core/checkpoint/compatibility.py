"""Whether a run folder can be gone on from, known before any rank starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from mimo_core.checkpoint.directory import LatestCheckpoint, newest
from mimo_core.checkpoint.manifest import Manifest
from mimo_core.errors import CheckpointError, RecipeError
from mimo_core.planning.plan import Plan
from mimo_core.recipe import DataRecipe, ModuleRecipe
from mimo_core.recipe.converter import plain
from mimo_core.recipe.megatron_schema import shared_fields
from mimo_core.reporting.run_directory import RunDirectory

_FIXED = ("global_batch_size", "seed", "learning_rate", "min_learning_rate")
"""Of ``train``: what the place in the data and core's parameter groups are told by."""
_CUT = ("grid", "precision")
"""Of a module: what an optimizer's state may be cut by."""
_FREE = (*_CUT, "extra_warmup_microbatches")
_HOW = frozenset(
    {
        *("attention_backend", "cross_entropy_fusion_impl", "deterministic_mode"),
        *("fine_grained_activation_offloading", "offload_modules", "moe_shared_expert_overlap"),
        *("use_fused_weighted_squared_relu", "fused_residual_rmsnorm", "fused_single_qkv_rope"),
        *("persist_layer_norm", "memory_efficient_layer_norm", "use_te_activation_func"),
        *("use_transformer_engine_op_fuser", "use_mamba_mem_eff_path"),
        "disable_bf16_reduced_precision_matmul",
    }
)
_HOW_BEGIN = ("cuda_graph_", "recompute_", "cpu_offloading", "batch_p2p_", "overlap_p2p_")
_HOW_END = "_fusion"
"""Of a module's ``megatron``: how it is computed, by kernels of what kind and what is kept of it;
neither what it computes nor what is saved."""
CHANGES_MODEL = "changes_model"
"""In the metadata of a field of a plugin's options, ``False``: the same of an option."""
_REDUCTION = ("overlap_grad_reduce", "ddp_bucket_size")
"""Of a module: what the checkpoint's keys and shapes do not depend on."""
_OF_TRAINING = {"freeze", "lr_mult", "wd_mult", "packing", "pretrained_weights"}
"""Of a module: how it learns, not what it computes."""
_MODULE, _DATA = plain(ModuleRecipe(plugin="")), plain(DataRecipe(plugin=""))
RESHARDABLE = "fully_reshardable"
"""Megatron's name of an optimizer's state that any layout and precision can load."""


def find_resumable_checkpoint(plan: Plan, folder: RunDirectory) -> LatestCheckpoint:
    """The checkpoint of the run folder that the run goes on from, if there is one.

    Raises:
        RecipeError: the checkpoint is of another model, or beyond the run's end.
        CheckpointError: it is of another format than this version reads, or damaged; or checkpoints
            lack parts of their files, and no complete one is left.
    """
    found = newest(folder.checkpoints(plan.recipe.checkpoint.directory)).usable()
    if found.manifest is None:
        if found.shortened:
            lines = "".join(f"\n  {line}" for line in found.shortened)
            raise CheckpointError(
                f"{folder.path} holds checkpoints that were complete, and none is now:{lines}\n"
                "restore the files, or move these checkpoints to another folder to begin anew; "
                "nothing was changed",
                code="checkpoint.incomplete",
                folder=str(folder.path),
            )
        return found
    done = found.manifest.iteration
    if done > plan.recipe.train.iterations:
        raise RecipeError(
            f"{folder.path} holds a checkpoint of iteration {done}, beyond train.iterations = "
            f"{plan.recipe.train.iterations}; raise it, or begin anew with another --run-dir",
            code="checkpoint.beyond-end",
            folder=str(folder.path),
            iteration=done,
            iterations=plan.recipe.train.iterations,
        )
    changed = _changed(found.manifest, plan)
    if changed:
        raise RecipeError(
            f"{folder.path} holds a checkpoint of iteration {done} of another model or training, "
            "which cannot be gone on from:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nuse the values it was saved with, or begin anew with another --run-dir "
            "(checkpoint.init_from takes the weights along)",
            code="checkpoint.other-model",
            folder=str(folder.path),
            iteration=done,
            differences=tuple(changed),
        )
    return found


def module_differences(saved: Manifest, plan: Plan) -> list[str]:
    """A line for each value of the recipe's modules that shapes the model and has changed."""
    wanted = plain(plan.recipe)["modules"]
    modules = _fixed(saved.recipe["modules"]), _fixed(wanted)
    everywhere = [shared_fields(of) for of in (saved.recipe["megatron"], plan.recipe.megatron)]
    for name, module in plan.graph.modules.items():
        for known, shared in zip(modules, everywhere, strict=True):
            if name not in known:
                continue
            fields = shared | known[name]["megatron"]
            known[name]["megatron"] = {k: v for k, v in fields.items() if not _how(k)}
        for known in (known[name] for known in modules if name in known):
            free = _free_options(module.options)
            known["options"] = {k: v for k, v in known["options"].items() if k not in free}
    for origin in saved.origins:
        # A directory that is read again may have been moved: what it holds is compared. Options
        # that name it have moved with it.
        was, now = (
            known.get(origin["module"], {}).pop("pretrained_weights", None) for known in modules
        )
        for known in modules if was and now else ():
            module = known[origin["module"]]
            module["options"] = _moved(module["options"], (was, origin["path"]), now)
    return _differences("modules", *modules)


def start_notes(saved: Manifest, plan: Plan) -> list[str]:
    """A line for each value with which a module computes otherwise with the weights of a
    checkpoint than the run that saved them, though the weights fit.

    Args:
        saved: Of the checkpoint that the run starts with.
        plan: What is run.
    """
    return [
        f"checkpoint.init_from: {line}"
        for line in module_differences(saved, plan)
        if not _OF_TRAINING.intersection(line.partition(":")[0].split(".")[2:3])
    ]


def _how(field: str) -> bool:
    return field in _HOW or field.startswith(_HOW_BEGIN) or field.endswith(_HOW_END)


def _free_options(options: Any) -> set[str]:
    fields = attrs.fields(type(options)) if attrs.has(type(options)) else ()
    return {field.name for field in fields if field.metadata.get(CHANGES_MODEL) is False}


def _moved(options: Mapping[str, Any], places: Collection[str], now: str) -> dict[str, Any]:
    """The options with the new place where they name one of the old ones."""
    return {key: now if value in places else value for key, value in options.items()}


def data_differences(saved: Manifest, plan: Plan) -> list[str]:
    """A line for each value of the recipe's data and tokenizer that may make other samples."""
    wanted = plain(plan.recipe)
    found = _differences("data", _DATA | saved.recipe["data"], wanted["data"])
    found += _differences("tokenizer", saved.recipe["tokenizer"], wanted["tokenizer"])
    return [line for line in found if not line.startswith("data.num_workers:")]


def _changed(saved: Manifest, plan: Plan) -> list[str]:
    wanted = plain(plan.recipe)
    found = module_differences(saved, plan)
    for key in _FIXED:
        found += _differences(f"train.{key}", saved.recipe["train"][key], wanted["train"][key])
    if saved.optimizer != RESHARDABLE:
        found += _bound_to_the_layout(saved, plan)
    return found


def _bound_to_the_layout(saved: Manifest, plan: Plan) -> list[str]:
    """What may not change where the optimizer's state is cut as its ranks were."""
    wanted, was = plain(plan.recipe), saved.recipe
    found = _differences("train.precision", was["train"]["precision"], wanted["train"]["precision"])
    for name, module in wanted["modules"].items():
        for key in _CUT:
            before, now = was["modules"][name][key], module[key]
            if key == "grid":
                before, now = ({**grid, "rank_offset": None} for grid in (before, now))
            found += _differences(f"modules.{name}.{key}", before, now)
    for flag in _REDUCTION:
        before, now = (recipe["megatron"].get(flag) for recipe in (was, wanted))
        found += _differences(f"megatron.{flag}", before, now)
    why = "(saved with megatron.dist_ckpt_optim_fully_reshardable: false)"
    return [f"{line} {why}" for line in found]


def _fixed(modules: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        # A key that the version which saved did not know yet had its default.
        name: {k: value for k, value in (_MODULE | dict(module)).items() if k not in _FREE}
        for name, module in modules.items()
    }


def _differences(place: str, saved: Any, wanted: Any) -> list[str]:
    """A line for each value that differs."""
    if not (isinstance(saved, dict) and isinstance(wanted, dict)):
        return [] if saved == wanted else [f"{place}: saved with {saved}, now {wanted}"]
    found = []
    wrappers = place.endswith(".wrappers")
    if wrappers and saved.keys() == wanted.keys() and [*saved] != [*wanted]:
        orders = (", ".join(names) for names in (saved, wanted))
        found.append("{}: saved in the order {}, now {}".format(place, *orders))
    for key in [*saved, *(key for key in wanted if key not in saved)]:
        if (place == "modules" or wrappers) and (key not in saved or key not in wanted):
            where = "the checkpoint" if key in saved else "the recipe"
            found.append(f"{place}.{key}: only in {where}")
            continue
        found += _differences(f"{place}.{key}", saved.get(key), wanted.get(key))
    return found

"""Keys that are not of a recipe, and the key to use instead: in error messages only.

Former keys of this project, and keys that people bring from the Hugging Face ``Trainer``,
torchtitan, NeMo, axolotl and ms-swift. No alias is accepted as a key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def _to(target: str, *keys: str) -> dict[str, str]:
    return dict.fromkeys(keys, target)


FORMER: Mapping[str, str] = {
    "layout": "placement",
    "evaluate": "validation",
    "modules.NAME.weights": "modules.NAME.pretrained_weights",
    "modules.NAME.ahead": "modules.NAME.extra_warmup_microbatches",
    "modules.NAME.learning_rate_factor": "modules.NAME.lr_mult",
    "modules.NAME.weight_decay_factor": "modules.NAME.wd_mult",
    "modules.NAME.grid.expert_tp": "modules.NAME.grid.etp",
    "modules.NAME.grid.first_rank": "modules.NAME.grid.rank_offset",
    "data.too_long": "data.overlength",
    "data.workers": "data.num_workers",
    "train.minimum_learning_rate": "train.min_learning_rate",
    "train.warmup_iterations": "train.lr_warmup_iterations",
    "train.decay": "train.lr_decay_style",
    "train.clip_gradient": "train.max_grad_norm",
    "train.log_every": "train.log_interval",
    "validation.every": "validation.interval",
    "validation.samples": "validation.num_samples",
    "validation.show": "validation.num_displayed",
    "checkpoint.save": "checkpoint.enabled",
    "checkpoint.save_every": "checkpoint.save_interval",
    "checkpoint.save_initial": "checkpoint.save_at_start",
    "checkpoint.start_from": "checkpoint.init_from",
    "profile.record": "profile.enabled",
    "profile.iteration": "profile.step",
    "profile.kernels": "profile.torch_profiler",
    "tokenizer.directory": "tokenizer.path",
}
"""By the place of the former key."""

FOREIGN: Mapping[str, str] = {
    **_to("train", "training", "trainer", "optim", "optimizer", "lr_scheduler", "training_args"),
    **_to("modules", "model", "models", "vision_tower", "mm_vision_tower"),
    **_to("data", "dataset", "datasets", "train_file", "dataset_path", "data_path", "train_data"),
    **_to("validation", "evaluation", "eval"),
    **_to("checkpoint", "checkpointing"),
    **_to("train.learning_rate", "lr", "max_lr", "peak_lr", "learning_rate"),
    **_to("train.min_learning_rate", "min_lr", "min_lr_ratio", "min_lr_factor"),
    **_to("train.iterations", "max_steps", "steps", "train_iters", "max_iters", "num_steps"),
    **_to("train.iterations", "epochs", "num_epochs", "num_train_epochs", "max_epochs"),
    **_to("train.micro_batch_size", "batch_size", "local_batch_size", "train_batch_size", "mbs"),
    **_to("train.micro_batch_size", "per_device_train_batch_size", "micro_batch_size"),
    **_to("train.global_batch_size", "gradient_accumulation_steps", "accumulate_grad_batches"),
    **_to("train.global_batch_size", "grad_accum_steps", "gbs", "global_batch_size"),
    **_to("train.sequence_length", "seq_len", "seq_length", "max_length", "max_seq_length"),
    **_to("train.sequence_length", "sequence_len", "cutoff_len", "block_size", "max_seq_len"),
    **_to("train.lr_warmup_iterations", "warmup_steps", "warmup_ratio", "lr_warmup_iters"),
    **_to("train.lr_warmup_iterations", "lr_warmup_steps", "warmup_iters", "num_warmup_steps"),
    **_to("train.lr_decay_style", "lr_scheduler_type", "scheduler", "decay_type", "lr_schedule"),
    **_to("train.max_grad_norm", "max_norm", "clip_grad", "gradient_clip_val", "grad_clip"),
    **_to("train.max_grad_norm", "gradient_clipping", "max_grad_norm"),
    **_to("train.precision", "bf16", "fp16", "dtype", "torch_dtype", "mixed_precision"),
    **_to("train.precision", "param_dtype", "mixed_precision_param", "precision"),
    **_to("train.weight_decay", "weight_decay", "wd"),
    **_to("train.seed", "seed", "data_seed"),
    **_to("train.log_interval", "logging_steps", "log_freq", "log_interval", "log_every_n_steps"),
    **_to("checkpoint.save_interval", "save_steps", "save_interval", "save_freq", "ckpt_interval"),
    **_to("checkpoint.init_from", "pretrained_checkpoint", "init_from", "initial_load_path"),
    **_to("checkpoint.directory", "save_dir", "ckpt_dir", "checkpoint_dir", "save_folder"),
    **_to("validation.interval", "eval_steps", "eval_interval", "val_check_interval", "eval_freq"),
    **_to("validation.num_samples", "eval_iters", "limit_val_batches", "max_eval_samples"),
    **_to("modules.NAME.pretrained_weights", "model_name_or_path", "base_model", "model_path"),
    **_to("modules.NAME.pretrained_weights", "hf_assets_path", "restore_from_path", "model_id"),
    **_to("modules.NAME.freeze", "freeze_vit", "freeze_llm", "freeze_aligner", "unfreeze"),
    **_to("modules.NAME.freeze", "freeze_vision_tower", "freeze_vision_model", "frozen"),
    **_to("modules.NAME.lr_mult", "vit_lr", "aligner_lr", "mm_projector_lr", "lr_factor"),
    **_to("modules.NAME.packing", "packing", "sample_packing", "pack_sequences"),
    **_to("modules.NAME.wrappers", "lora", "peft", "adapter", "lora_rank", "lora_r", "lora_alpha"),
    **_to("modules.NAME.wrappers", "target_modules", "lora_target_modules", "train_type"),
    **_to("modules.NAME.grid.tp", "tensor_parallel_degree", "tensor_model_parallel_size"),
    **_to("modules.NAME.grid.tp", "tp_size", "tensor_parallel_size", "tensor_parallelism"),
    **_to("modules.NAME.grid.pp", "pipeline_parallel_degree", "pipeline_model_parallel_size"),
    **_to("modules.NAME.grid.pp", "pp_size", "pipeline_parallel_size"),
    **_to("modules.NAME.grid.cp", "context_parallel_degree", "context_parallel_size", "cp_size"),
    **_to("modules.NAME.grid.cp", "sequence_parallel_size", "sequence_parallel_degree"),
    **_to("modules.NAME.grid.dp", "data_parallel_size", "data_parallel_replicate_degree"),
    **_to("modules.NAME.grid.dp", "data_parallel_shard_degree", "dp_size"),
    **_to("modules.NAME.grid.ep", "expert_model_parallel_size", "expert_parallel_degree"),
    **_to("modules.NAME.grid.ep", "ep_size", "expert_parallel_size"),
    **_to("modules.NAME.grid.etp", "expert_tensor_parallel_size", "expert_tensor_parallel_degree"),
    **_to("modules.NAME.grid", "parallelism", "tp", "pp", "cp", "dp", "ep", "etp", "strategy"),
    **_to("modules.NAME.megatron", "gradient_checkpointing", "activation_checkpoint"),
    **_to("modules.NAME.megatron", "activation_checkpointing", "attn_implementation"),
    **_to("modules.NAME.megatron", "attn_impl", "flash_attention", "flash_attn", "recompute"),
    **_to("tokenizer.path", "tokenizer_name", "tokenizer_path", "tokenizer_name_or_path"),
    **_to("tokenizer.path", "hf_tokenizer_path", "tokenizer_model", "directory"),
    **_to("data.num_workers", "dataloader_num_workers", "dataset_num_proc", "num_workers"),
    **_to("data.overlength", "truncation", "truncation_strategy", "excess_length_strategy"),
    **_to("data.options", "split_dataset_ratio", "val_set_size", "dataset_format", "text_column"),
    **_to("--run-dir", "output_dir", "out_dir", "dump_folder", "exp_dir", "run_dir", "run_name"),
    **_to("--run-dir", "resume_from_checkpoint", "resume", "auto_resume_from_checkpoints"),
}
"""By the bare key, wherever it stands; ``--run-dir`` is an option of the command."""


def instead_of(path: Sequence[str | int]) -> str | None:
    """The key to use instead of the one at ``path``, with ``NAME`` for a module, or ``None``."""
    words = [str(word) for word in path]
    if len(words) > 1 and words[0] == "modules":
        words[1] = "NAME"
    return FORMER.get(".".join(words)) or FOREIGN.get(words[-1].casefold().replace("-", "_"))

"""Stock flags of megatron-core 0.19 that are no fields of ``TransformerConfig``: which a recipe may
set, and why it may not set the others.

With those in ``mimo_core.recipe.megatron_schema`` every flag of the stock parser is in one class;
a flag in none is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

FREE_FLAGS = frozenset(
    (
        # Optimizer and gradients
        *("optimizer", "adam_beta1", "adam_beta2", "adam_eps", "apply_wd_to_qk_layernorm"),
        *("grad_reduce_in_bf16", "accumulate_allreduce_grads_in_fp32", "overlap_grad_reduce"),
        *("ddp_num_buckets", "ddp_bucket_size", "ddp_pad_buckets_for_high_nccl_busbw"),
        *("ddp_reduce_scatter_with_fp32_accumulation", "no_align_grad_reduce"),
        *("disable_align_grad_reduce", "ddp_param_name_patterns_for_fp32_local_accumulation"),
        *("no_gradient_reduce_div_fusion", "check_for_large_grads", "optimizer_cuda_graph"),
        # The loop
        *("exit_interval", "exit_duration_in_mins", "manual_gc", "manual_gc_interval"),
        *("no_manual_gc_eval", "disable_manual_gc_eval", "empty_unused_memory_level"),
        *("train_sync_interval", "check_weight_hash_across_dp_replicas_interval"),
        *("rerun_mode", "check_for_spiky_loss", "error_injection_rate", "error_injection_type"),
        *("result_rejected_tracker_filename", "disable_jit_fuser", "enable_experimental"),
        "distributed_timeout_minutes",
        # Checkpoints
        *("save_retain_interval", "save_wgrads_interval", "save_dgrads_interval"),
        *("dist_ckpt_optim_fully_reshardable", "dist_ckpt_workers", "ckpt_fully_parallel_load"),
        *("no_ckpt_fully_parallel_save", "ckpt_assume_constant_structure"),
        # What is written of a run
        *("log_params_norm", "log_throughput", "log_progress", "timing_log_level"),
        *("timing_log_option", "tensorboard_log_interval", "log_timers_to_tensorboard"),
        *("no_log_loss_scale_to_tensorboard", "disable_log_loss_scale_to_tensorboard"),
        *("log_validation_ppl_to_tensorboard", "log_memory_to_tensorboard", "log_memory_interval"),
        *("log_device_memory_used", "log_num_zeros_in_grad", "no_barrier_with_level_1_timing"),
        *("log_world_size_to_tensorboard", "wandb_project", "wandb_exp_name", "wandb_save_dir"),
        *("wandb_entity", "logging_level", "log_energy", "dump_param_to_param_group_map"),
        # torch's profiler and memory history
        *("profile", "profile_step_start", "profile_step_end", "use_pytorch_profiler"),
        *("pytorch_profiler_collect_shapes", "pytorch_profiler_collect_callstack"),
        *("pytorch_profiler_collect_chakra", "profile_ranks", "record_memory_history"),
        *("memory_snapshot_path", "record_shapes", "nvtx_ranges"),
        *("flight_recorder_dump_path", "flight_recorder_trace_buffer_size"),
        *("no_flight_recorder_dump_on_timeout", "disable_flight_recorder_dump_on_timeout"),
        "flight_recorder_include_stack_trace",
        *("no_flight_recorder_include_only_active", "disable_flight_recorder_include_only_active"),
        *("no_flight_recorder_extra_dump_on_exec", "disable_flight_recorder_extra_dump_on_exec"),
    )
)
"""Flags that the stock loop reads and no key of a recipe competes with."""

ENGINE_KEYS: Mapping[str, str] = {
    "seq_length": "train.sequence_length",
    "max_position_embeddings": "train.sequence_length",
    "tokenizer_type": "tokenizer.path",
    "vocab_size": "tokenizer.path",
    "num_layers": "modules.NAME.options",
    "hidden_size": "modules.NAME.options",
    "num_attention_heads": "modules.NAME.options",
    "tensor_model_parallel_size": "modules.NAME.grid.tp",
    "pipeline_model_parallel_size": "modules.NAME.grid.pp",
    "context_parallel_size": "modules.NAME.grid.cp",
    "micro_batch_size": "train.micro_batch_size",
    "global_batch_size": "train.global_batch_size",
    "train_iters": "train.iterations",
    "train_samples": "train.iterations",
    "lr": "train.learning_rate",
    "min_lr": "train.min_learning_rate",
    "lr_warmup_iters": "train.lr_warmup_iterations",
    "lr_decay_style": "train.lr_decay_style",
    "weight_decay": "train.weight_decay",
    "clip_grad": "train.max_grad_norm",
    "seed": "train.seed",
    "bf16": "train.precision",
    "eval_iters": "validation.num_samples",
    "eval_interval": "validation.interval",
    "save": "checkpoint.directory",
    "save_interval": "checkpoint.save_interval",
    "persistent_save_interval": "checkpoint.save_interval",
    "pretrained_checkpoint": "checkpoint.init_from",
    "log_interval": "train.log_interval",
}
"""The key of a recipe that a flag of the engine (``stock.ENGINE_FLAGS``) follows from, where it is
one."""

_SCHEDULE = (
    "train.learning_rate, train.min_learning_rate, train.lr_warmup_iterations, "
    "train.lr_decay_style and "
    "train.iterations are the whole schedule"
)
_DECAY = "train.weight_decay is the decay of the whole run"
_BATCHES = "train.micro_batch_size and train.global_batch_size are the sizes of the whole run"
_EVALUATION = (
    "validation.interval and validation.num_samples say when and on what a run is evaluated"
)
_MEASURED = "a run is measured by profile.enabled and its own summary"
_LOADING = (
    "a run continues from its newest complete checkpoint, and checkpoint.init_from takes weights "
    "of another run"
)
_PRECISION = "train.precision and modules.NAME.precision say the precision"
_GRID = "modules.NAME.grid says which ranks a module has, and how its layers are divided"

COMPETING_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(
        (
            *("lr_wsd_decay_style", "lr_decay_iters", "lr_decay_samples", "lr_wsd_decay_iters"),
            *("lr_wsd_decay_samples", "lr_warmup_fraction", "lr_warmup_samples"),
            *("lr_warmup_init", "warmup", "use_checkpoint_opt_param_scheduler"),
        ),
        _SCHEDULE,
    ),
    **dict.fromkeys(
        ("decoupled_lr", "decoupled_min_lr", "head_lr_mult"),
        "modules.NAME.lr_mult sets the learning rate of a part of the model",
    ),
    **dict.fromkeys(
        ("start_weight_decay", "end_weight_decay", "weight_decay_incr_style"),
        _DECAY,
    ),
    "no_weight_decay_cond_type": "modules.NAME.wd_mult sets the decay of a module",
    "freeze_all_layers": "modules.NAME.freeze says what does not learn",
    **dict.fromkeys(
        (
            *("batch_size", "step_batch_size_schedule", "decrease_batch_size_if_needed"),
            *("phase_transition_iterations", "iterations_to_skip"),
        ),
        _BATCHES,
    ),
    **dict.fromkeys(
        (
            *("start_eval_at_iter", "eval_global_batch_size", "eval_micro_batch_size"),
            *("skip_train", "full_validation", "multiple_validation_sets"),
            "validation_set_names",
        ),
        _EVALUATION,
    ),
    **dict.fromkeys(("encoder_seq_length", "decoder_seq_length"), "train.sequence_length sets it"),
    "te_rng_tracker": "train.seed and the names of modules give the states of random numbers",
    "exit_signal_handler_for_dataloader": "SIGTERM ends a run after a checkpoint",
    "ddp_average_in_collective": "gradients are sums, which are divided by the counted tokens",
    **dict.fromkeys(
        ("no_one_logger", "one_logger_project", "one_logger_run_name", "one_logger_async"),
        _MEASURED,
    ),
    **dict.fromkeys(
        ("app_tag_run_name", "app_tag_run_version", "tensorboard_queue_size"),
        _MEASURED,
    ),
    **dict.fromkeys(
        (
            *("exit_on_missing_checkpoint", "use_checkpoint_args", "replication"),
            *("use_mp_args_from_checkpoint_args", "no_use_tokenizer_model_from_checkpoint_args"),
            *("disable_use_tokenizer_model_from_checkpoint_args", "load_main_params_from_ckpt"),
            *("ckpt_convert_format", "ckpt_convert_save", "non_persistent_local_ckpt_algo"),
            *("ckpt_convert_update_legacy_dist_opt_format", "replication_jump"),
            *("replication_factor", "no_strict_fsdp_dtensor_load", "verify_integrity"),
            *("disable_strict_fsdp_dtensor_load", "no_stream_ckpt_dequant"),
            *("disable_stream_ckpt_dequant", "use_dist_ckpt", "dist_ckpt_format"),
            *("ckpt_fully_parallel_save", "dist_ckpt_save_pre_mcore_014"),
            *("no_ckpt_load_validate_sharding_integrity", "save_params_interval"),
            *("disable_ckpt_load_validate_sharding_integrity", "save_activations_interval"),
            *("ckpt_fully_parallel_load_exchange_algo", "save_tokens_per_expert_interval"),
            *("ckpt_fully_parallel_save_process_group", "ckpt_fully_parallel_load_process_group"),
            *("async_strategy", "use_persistent_ckpt_worker", "async_ckpt_cpu_priority"),
            *("async_ckpt_io_priority", "async_ckpt_use_cpu_shm", "enable_msc", "disable_msc"),
        ),
        _LOADING,
    ),
    **dict.fromkeys(
        (
            *("loss_scale", "initial_loss_scale", "min_loss_scale", "loss_scale_window"),
            *("hysteresis", "fp16_lm_cross_entropy", "reuse_grad_buf_for_mxfp8_param_ag"),
            *("fp8_format", "fp4_format", "fp8_param_gather", "fp4_param_gather"),
            *("te_precision_config_file", "keep_fp8_transpose_cache"),
        ),
        _PRECISION,
    ),
    **dict.fromkeys(
        (
            *("model_parallel_size", "num_layers_per_virtual_pipeline_stage"),
            *("num_virtual_stages_per_pipeline_rank", "use_tp_pp_dp_mapping", "local_rank"),
            *("decoder_first_pipeline_num_layers", "decoder_last_pipeline_num_layers"),
            *("microbatch_group_size_per_virtual_pipeline_stage", "lazy_mpu_init"),
            *("no_overlap_p2p_communication", "overlap_p2p_communication_warmup_flush"),
            *("distributed_backend", "disable_gloo_process_groups", "use_sharp"),
            *("sharp_enabled_group", "high_priority_stream_groups", "fake_process_group"),
            *("nccl_communicator_config_path", "num_distributed_optimizer_instances"),
            *("distributed_timeout_seconds_after_init", "no_align_param_gather"),
            *("no_use_layer_wise_param_layout", "use_nccl_ub", "disable_symmetric_registration"),
            *("create_all_gather_group", "data_parallel_sharding_strategy"),
            *("outer_dp_sharding_strategy", "suggested_communication_unit_size"),
            *("enable_full_sharding_in_hsdp", "tp_comm_overlap_cfg"),
            "torch_fsdp2_no_reshard_after_forward",
        ),
        _GRID,
    ),
}
"""Flags that compete with a key of the recipe, or that nothing here reads, and what decides."""

FIELD_FLAGS: Mapping[str, str] = {
    "no_initialization": "perform_initialization: false",
    "norm_epsilon": "layernorm_epsilon: VALUE",
    "apply_layernorm_1p": "layernorm_zero_centered_gamma: true",
    "disable_bias_linear": "add_bias_linear: false",
    "disable_mamba_mem_eff_path": "use_mamba_mem_eff_path: false",
    "no_bias_gelu_fusion": "bias_activation_fusion: false",
    "no_bias_swiglu_fusion": "bias_activation_fusion: false",
    "no_rope_fusion": "apply_rope_fusion: false",
    "recompute_activations": "recompute_granularity: selective",
    "checkpoint_activations": "recompute_granularity: full",
    "use_flash_attn": "attention_backend: flash",
}
"""Flags that only change a field of ``TransformerConfig``, which modules are configured by; and
what a recipe says instead."""

LISTED = FREE_FLAGS | {*COMPETING_FLAGS} | {*FIELD_FLAGS}
"""All flags above."""

_MODEL = "a module is built from modules.NAME.options, which its plugin reads"
_DATA = "the data section of a recipe says what is read, tokenizer.path how"
_NOT_HERE = "nothing here does that"
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        _MODEL,
        (
            *("encoder_num_layers", "decoder_num_layers", "yarn_", "no_yarn_", "relative_"),
            *("use_rotary_", "rotary_", "use_rope_", "rope_", "no_position_embedding"),
            *("openai_gelu", "onnx_safe", "bert_", "init_method_", "use_mcore_models"),
            *("q_lora_rank", "kv_lora_rank", "qk_", "v_head_dim", "mscale", "cache_mla_"),
            *("mla_", "heterogeneous_", "moe_use_upcycling", "moe_upcycling_", "swin_"),
            *("ict_", "biencoder_", "num_classes", "img_", "num_channels", "patch_dim"),
            *("vision_", "mask_type", "mask_factor", "dino_", "iter_per_epoch"),
        ),
    ),
    (
        _DATA,
        (
            *("per_dataset_", "dataloader_", "data_cache_path", "no_mmap_bin_files"),
            *("sample_rate", "mask_prob", "short_seq_prob", "reset_", "eod_mask_loss"),
            *("no_create_attention_mask_", "num_dataset_builder_threads", "object_storage_"),
            *("mid_level_dataset_", "allow_ambiguous_", "fim_", "padded_vocab_size"),
            *("disable_pad_vocab_size", "no_pad_vocab_size", "tokenizer_", "tiktoken_"),
            *("disable_tokenizer_", "no_tokenizer_", "trust_remote_code", "null_tokenizer_"),
            *("chat_template", "titles_data_path", "query_in_block_prob", "use_one_sent_docs"),
            *("evidence_data_path", "retriever_", "block_data_path", "embedding_path"),
            *("indexer_", "classes_fraction", "data_per_class_fraction", "no_data_sharding"),
            *("sft",),
        ),
    ),
    (
        _NOT_HERE,
        (
            *("rl_", "no_rl_", "grpo_", "langrl_", "perform_rl_step", "refit_method"),
            *("sgd_", "muon_", "lion_", "logits_", "adlr_autoresume", "log_straggler"),
            *("straggler_", "disable_straggler_", "run_workload_inspector_server"),
            *("inference_", "no_inference_", "max_tokens_to_oom", "output_bert_embeddings"),
            *("use_legacy_static_engine", "decode_only_cuda_graphs", "enable_chunked_prefill"),
            *("num_speculative_tokens", "use_same_sampling_seed_", "mamba_inference_"),
            *("megatron_fsdp_", "fsdp_", "inprocess_", "enable_ft_package", "calc_ft_"),
            *("ft_num_", "fault_injector_", "gpu_sniff_test_", "moe_routing_trace_"),
        ),
    ),
)
"""Beginnings of the names of flags that belong to what is not here, with what is instead."""


def refusal(flag: str) -> str | None:
    """Why a recipe may not set a stock flag of these classes; ``None`` where it may, or where the
    flag is in none of them."""
    if flag in FREE_FLAGS:
        return None
    if flag in FIELD_FLAGS:
        return f"modules are configured by fields of TransformerConfig; write {FIELD_FLAGS[flag]}"
    if flag in COMPETING_FLAGS:
        return f"this flag is refused: {COMPETING_FLAGS[flag]}; leave it out"
    for reason, beginnings in _FAMILIES:
        if flag.startswith(beginnings):
            return f"nothing reads this flag here: {reason}; leave it out"
    return None

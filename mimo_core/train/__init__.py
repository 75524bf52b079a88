"""The engine: everything wired into megatron's stock ``pretrain()``."""

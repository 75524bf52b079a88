"""Low-rank adapters (LoRA) on linear layers of any module, from outside."""

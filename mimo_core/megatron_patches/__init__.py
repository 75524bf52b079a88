"""Where Megatron-LM is changed at run time: each patch with its reason."""

"""Dense and mixture-of-experts decoders (the shapes of Llama, Qwen and Mixtral) for mimo."""

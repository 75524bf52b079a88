"""Nemotron hybrid language models (Mamba2, attention, MLP, mixture of experts) for mimo."""

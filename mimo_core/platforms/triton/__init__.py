"""Triton kernels: faster autotuning and parallel compilation."""

"""Kernels that several rungs share."""

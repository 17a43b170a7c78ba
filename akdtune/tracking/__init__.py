"""Trials as runs of Weights & Biases."""

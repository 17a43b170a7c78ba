"""Diversity of an ensemble and accuracy of its student."""

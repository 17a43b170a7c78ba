"""A study that runs: the driver, Ray's side of a trial, what is planned next, lock, display, tracking.

The only package that starts Ray or speaks to Weights & Biases; a loss or a network has no business here.
"""

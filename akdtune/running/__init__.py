"""A study that runs: driver, Ray's side of a trial, phases, lock, tracking. The only package that starts Ray."""

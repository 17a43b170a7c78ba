"""The YAML, typed: what a user may write, read with lines and overrides.

Knows neither torch nor a trial that runs.
"""

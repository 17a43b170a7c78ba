"""Which configuration comes next and which trial stops early: Optuna, brackets, pilots, racing.

Decides from the ledger alone, so that a study that was cut goes on the same; it runs and trains nothing.
"""

"""Which configuration comes next: Optuna, early stopping, pilots, racing."""

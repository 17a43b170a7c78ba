"""How cells of an ablation compare."""

"""Frozen teachers: found, loaded, asked, cached. How one is trained is in training."""

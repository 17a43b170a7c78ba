"""Data sets: one file a family, found by the registry, imported by nobody."""

"""The trials of a study in numbers: how many ended how, means over seeds, which are best."""

"""Images on their way to a batch: pool, splits, augmentation, streaming, and the contract of a data set.

Knows settings, and no data set by name; nothing here knows a network, a teacher or a trial.
"""

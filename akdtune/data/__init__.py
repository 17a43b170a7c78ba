"""Images on their way to a batch: pool, splits, augmentation, streaming. Knows no data set by name."""

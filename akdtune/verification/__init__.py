"""Whether a study directory is what its trials wrote: recomputed, compared, trained again. Writes nothing there."""

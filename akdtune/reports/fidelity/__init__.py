"""Whether students attend and answer as their teachers do: numbers, relations, report, figures (arXiv 2405.00739)."""

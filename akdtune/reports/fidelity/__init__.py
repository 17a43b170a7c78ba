"""Whether students attend and answer as their teachers do (arXiv 2405.00739): numbers, relations, report, figures."""

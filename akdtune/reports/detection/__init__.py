"""Was a student distilled from this teacher: scores of what networks say about the same inputs, and their verdict."""

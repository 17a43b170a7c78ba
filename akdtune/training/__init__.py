"""One trial: its loop, parts, objective, measures; and how a teacher is trained. Knows no scheduler and no study."""

"""One trial: its loop, parts, objective and measures; and how a teacher is trained.

Knows no scheduler, no study, no design and no study directory.
"""

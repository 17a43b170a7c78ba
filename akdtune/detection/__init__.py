"""Which teacher taught a student: candidates are gathered, and all of them asked about the same inputs.

Networks run here. What is made of their answers is `reports.detection`, which reads numbers alone.
"""

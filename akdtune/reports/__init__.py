"""What a finished or running study says: numbers, tables, figures, sentences, and `Results` for notebooks.

Reads records, never what trains; arithmetic that needs no study is in statistics.
"""

"""A checked study: the sections that fit together, its arms, proposals, ids, schema, and how it is written out.

Nothing is loaded and nothing trains here: no data, no teacher, no directory of a study.
"""

"""Frozen teachers: found, loaded, asked, and what they say cached.

How one is trained is in `training`; nothing here knows a student, a trial or a study.
"""

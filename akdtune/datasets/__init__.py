"""Data sets: one file a family, each class registered under the name that a study gives.

Found by the registry and imported by nobody; knows only how to read, and nothing of who trains on it.
"""

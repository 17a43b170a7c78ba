"""Estimates with their intervals: association, paired differences, effects, power, importance; all of them on numbers.

Knows no study and no directory; what is compared with what is decided in reports.
"""

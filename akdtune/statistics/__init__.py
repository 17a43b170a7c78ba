"""Estimates and their intervals: association, paired differences, effects, power. Knows no study."""

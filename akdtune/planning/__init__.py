"""A study meets its data: ids, costs, gradient factors, the plan.

Trains nothing but a few timed steps; knows no scheduler and no study directory.
"""

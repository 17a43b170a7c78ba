"""A study meets its data: ids, costs, gradient factors, the plan. Trains nothing but a few timed steps."""

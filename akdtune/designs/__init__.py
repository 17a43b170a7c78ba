"""What is compared: factors, controls, cells.

Knows settings and components, never data, teachers or training.
"""

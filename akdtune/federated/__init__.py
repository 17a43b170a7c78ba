"""Federated training: images dealt out to clients, what a server makes of their networks, and the loop of rounds.

Found through the task `federated`; nothing else knows it.
"""

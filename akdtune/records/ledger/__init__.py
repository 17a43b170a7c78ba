"""The ledger: its events, their lines, how they are read, and when a study ran by them."""

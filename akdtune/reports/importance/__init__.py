"""Which searched settings matter."""

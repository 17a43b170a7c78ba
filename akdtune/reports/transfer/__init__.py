"""What a student has taken over from its teacher's function."""

"""What a finished (or running) study says: numbers, tables, figures. Reads records, never training state."""

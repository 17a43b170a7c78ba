"""What a study leaves on disk: formats, tables, ledger, directories. Knows no torch and no settings."""

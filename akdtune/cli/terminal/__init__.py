"""Text for a terminal of so many columns: tables of one line a row, and sentences that break between words."""

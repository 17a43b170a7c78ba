"""What stands on the page, a part of the study a file."""

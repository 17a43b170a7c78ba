"""One page that shows a study: a single HTML file, or the same words and tables as Markdown."""

"""Figures of the page, drawn as SVG from a study's numbers."""

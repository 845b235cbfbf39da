"""Metrics with stated conventions, and the statistics to compare methods."""

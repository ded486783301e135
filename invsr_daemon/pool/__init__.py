"""Processes that work for the parent, from its side."""

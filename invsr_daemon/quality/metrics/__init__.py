"""Metrics of pictures and films."""

"""The inbox: which files have arrived and lie still."""

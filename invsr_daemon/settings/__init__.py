"""Settings: one schema, and how files and options are read into it."""

"""The daemon's memory: jobs and every change of their state, in one SQLite file."""

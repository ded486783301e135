"""`invsr-daemon run`: files that arrive become jobs, jobs become results."""

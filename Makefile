# Shorthands for a checkout. What each step does stands in .ci/run alone.

.PHONY: all tools install format style types contracts quick tests check

# Everything that must hold, in a venv that is made anew: what CI runs.
all:
	.ci/run

# Before each commit: all but the tests that start processes or take seconds.
check:
	.ci/run style types contracts quick

format:
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

tools install style types contracts quick tests:
	.ci/run $@

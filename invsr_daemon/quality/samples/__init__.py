"""Pictures and films to measure on: real ones and generated ones."""

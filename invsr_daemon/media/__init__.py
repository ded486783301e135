"""Films and pictures through PyAV and Pillow: probe, decode, encode, assemble. Knows no torch."""

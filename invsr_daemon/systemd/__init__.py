"""systemd: the unit, and what it is told."""

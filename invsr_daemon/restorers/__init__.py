"""Pictures and films through networks. Nothing here knows of files, databases or settings."""

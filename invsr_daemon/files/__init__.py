"""Files that must not be lost or seen half: syncing, publishing, mounts."""

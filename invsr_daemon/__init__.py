"""invsr-daemon: restores every video and image dropped into a folder with InvSR."""

__version__ = "0.1.0"

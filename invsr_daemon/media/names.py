"""By which names films and pictures are found in folders; what a file really is, its content tells."""

from __future__ import annotations

# What people write in a configuration, and FFmpeg's encoder for it; encoders' own names work too.
ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "ffv1": "ffv1"}

# fmt: off
FILM_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".vob", ".flv", ".wmv", ".asf", ".ogv", ".3gp", ".mxf", ".nut", ".dv", ".gif", ".y4m", ".h264",
    ".hevc", ".ivf",
})

# fmt: on
# Of each format that can be written, the usual one first.
WRITTEN_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
}

# Still GIFs are found among the films.
PICTURE_SUFFIXES = frozenset({".avif", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"}).union(
    *WRITTEN_SUFFIXES.values()
)

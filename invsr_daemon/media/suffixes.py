"""By which names films and pictures are found in folders; what a file really is, its content tells."""

# fmt: off
FILM_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg",
    ".vob", ".flv", ".wmv", ".asf", ".ogv", ".3gp", ".mxf", ".nut", ".dv", ".gif", ".y4m", ".h264",
    ".hevc", ".ivf",
})
# fmt: on
PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"})

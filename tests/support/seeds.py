"""Small pictures and films of every kind that can be made here, and damaged copies of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import av.error
import numpy as np
from av.video.stream import VideoStream
from PIL import Image

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (24, 32, 3)).astype(np.uint16)

PICTURES = ("png", "jpg", "webp", "tif", "bmp", "jp2", "ppm", "tga", "gif", "avif")
MOVING_PICTURES = ("gif", "webp", "avif", "png", "tif")
# Suffix, encoder, pixel format, size, rate; what this build of FFmpeg cannot write is left out.
FILMS = (
    ("mp4", "libx264", "yuv420p", (32, 24), 25),
    ("mov", "prores_ks", "yuv422p10le", (32, 24), 25),
    ("mkv", "libx264", "yuv420p", (32, 24), 25),
    ("mkv", "ffv1", "yuv444p16le", (32, 24), 25),
    ("webm", "libvpx-vp9", "yuv420p", (32, 24), 25),
    ("webm", "libvpx", "yuv420p", (32, 24), 25),
    ("avi", "mpeg4", "yuv420p", (32, 24), 25),
    ("avi", "rawvideo", "bgr24", (32, 24), 25),
    ("ts", "mpeg2video", "yuv420p", (32, 24), 25),
    ("mpg", "mpeg1video", "yuv420p", (32, 24), 25),
    ("flv", "flv", "yuv420p", (32, 24), 25),
    ("swf", "flv", "yuv420p", (32, 24), 25),
    ("wmv", "wmv2", "yuv420p", (32, 24), 25),
    ("nut", "ffv1", "yuv420p", (32, 24), 25),
    ("mxf", "mpeg2video", "yuv420p", (32, 24), 25),
    ("ogv", "libtheora", "yuv420p", (32, 32), 25),
    ("rm", "rv20", "yuv420p", (176, 144), 25),
    ("y4m", "wrapped_avframe", "yuv420p", (32, 24), 25),
    ("ivf", "libvpx", "yuv420p", (32, 24), 25),
    ("h264", "libx264", "yuv420p", (32, 24), 25),
    ("hevc", "libx265", "yuv420p", (32, 24), 25),
    ("m4v", "mpeg4", "yuv420p", (32, 24), 25),
    ("mjpeg", "mjpeg", "yuvj420p", (32, 24), 25),
    ("h263", "h263", "yuv420p", (128, 96), 25),
    ("dv", "dvvideo", "yuv420p", (720, 576), 25),
    ("apng", "apng", "rgb24", (32, 24), 25),
    ("flm", "rawvideo", "rgba", (32, 24), 25),
    ("obu", "libsvtav1", "yuv420p", (64, 64), 25),
)
FRAMES = 12
KEYFRAME_EVERY = 4
# Numbers that sizes, counts and offsets go wrong at.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)


def make_seeds(folder: Path) -> tuple[Path, ...]:
    """A file of each kind, in a folder that is there."""
    return (*_pictures(folder), *_films(folder))


def _pictures(folder: Path) -> Iterator[Path]:
    for suffix in PICTURES:
        path = folder / f"still.{suffix}"
        Image.fromarray(RGB).save(path)
        yield path
    for suffix in MOVING_PICTURES:
        path = folder / f"moving-picture.{suffix}"
        Image.fromarray(RGB).save(path, save_all=True, append_images=[Image.fromarray(RGB[::-1])])
        yield path
    Image.fromarray(DEEP[..., 0]).save(folder / "deep.png")
    Image.fromarray(DEEP[..., 0]).save(folder / "deep.jp2")
    Image.fromarray(DEEP[..., 0]).save(folder / "deep.tif")
    (folder / "deep.ppm").write_bytes(b"P6 32 24 65535\n" + DEEP.astype(">u2").tobytes())
    yield from (folder / f"deep.{suffix}" for suffix in ("png", "jp2", "tif", "ppm"))


def _films(folder: Path) -> Iterator[Path]:
    for number, (suffix, encoder, pixel_format, size, rate) in enumerate(FILMS):
        path = folder / f"film-{number:02}.{suffix}"
        try:
            _make_film(path, encoder, pixel_format, size, rate)
        except (av.error.FFmpegError, ValueError):  # this build lacks it
            path.unlink(missing_ok=True)
        else:
            yield path


def _make_film(path: Path, encoder: str, pixel_format: str, size: tuple[int, int], rate: int) -> None:
    format = {".y4m": "yuv4mpegpipe", ".mjpeg": "mjpeg", ".flm": "filmstrip"}.get(path.suffix)
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream(encoder, rate=rate)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = KEYFRAME_EVERY
        for index in range(FRAMES):
            level = np.full((size[1], size[0], 3), 20 * index + 10, np.uint8)
            level[: size[1] // 2] = RGB[0, 0]
            for packet in stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


def damaged(seed: bytes, others: tuple[bytes, ...], rng: random.Random) -> bytes:
    """A copy of a file with one to four mistakes in it."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        rng.choice(MISTAKES)(data, others, rng)
    return bytes(data)


Mistake = Callable[[bytearray, tuple[bytes, ...], random.Random], None]


def _place(data: bytearray, rng: random.Random) -> int:
    """Often near the beginning, where headers are."""
    reach = min(len(data), 256) if rng.random() < 0.6 else len(data)
    return rng.randrange(reach) if reach else 0


def _flip_bits(data: bytearray, others: tuple[bytes, ...], rng: random.Random) -> None:
    for _ in range(rng.randint(1, 8) if data else 0):
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _put_number(data: bytearray, _: tuple[bytes, ...], rng: random.Random) -> None:
    width, at = rng.choice((1, 2, 4, 8)), _place(data, rng)
    number = rng.choice(NUMBERS) & ((1 << 8 * width) - 1)
    written = number.to_bytes(width, rng.choice(("big", "little")))
    data[at : at + width] = written[: max(0, len(data) - at)]


def _cut_off(data: bytearray, _: tuple[bytes, ...], rng: random.Random) -> None:
    del data[_place(data, rng) :]


def _leave_out(data: bytearray, _: tuple[bytes, ...], rng: random.Random) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 2, 4, 16, 64, 1024))]


def _repeat(data: bytearray, _: tuple[bytes, ...], rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice((1, 4, 16, 64, 1024))
    data[at:at] = data[at : at + length] * rng.randint(1, 3)


def _fill(data: bytearray, _: tuple[bytes, ...], rng: random.Random) -> None:
    at, length = _place(data, rng), rng.choice((4, 16, 64, 256))
    data[at : at + length] = bytes([rng.choice((0, 0xFF, rng.randrange(256)))]) * len(data[at : at + length])


def _graft(data: bytearray, others: tuple[bytes, ...], rng: random.Random) -> None:
    """Part of another file in its place."""
    other = rng.choice(others)
    start, length = rng.randrange(len(other)), rng.choice((8, 64, 512))
    at = _place(data, rng)
    data[at : at + length] = other[start : start + length]


def _pad(data: bytearray, _: tuple[bytes, ...], rng: random.Random) -> None:
    data.extend(bytes(rng.choice((1, 512, 65536))))


MISTAKES: tuple[Mistake, ...] = (
    *(_flip_bits, _flip_bits, _put_number, _put_number),
    *(_cut_off, _leave_out, _repeat, _fill, _graft, _pad),
)

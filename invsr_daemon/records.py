"""Values and errors that every room shares. Nothing here imports anything heavy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Identity:
    """What tells a file from a later one of the same path, without reading it.

    The device is left out: many file systems get another number with every mount. So is the time of the last
    change of the inode: chmod, renaming and a further link change it, too. `born_ns`: when this file got the
    inode, in nanoseconds since the epoch, for a copy that keeps its times may get that of a file that was
    removed; None where it is not known.
    """

    inode: int
    size: int
    mtime_ns: int
    born_ns: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`."""
        return cls(*map(int, text.split()))

    def __str__(self) -> str:
        born = "" if self.born_ns is None else f" {self.born_ns}"
        return f"{self.inode} {self.size} {self.mtime_ns}{born}"

    def matches(self, other: Identity) -> bool:
        """Whether both are the same file's, as far as both say: not every record and system knows a birth."""
        if self.born_ns is None or other.born_ns is None:
            return replace(self, born_ns=None) == replace(other, born_ns=None)
        return self == other

    def may_have_grown_from(self, earlier: Identity) -> bool:
        """Whether it may be the same file with more in it."""
        return self.size > earlier.size and replace(
            self, size=earlier.size, mtime_ns=earlier.mtime_ns
        ).matches(earlier)


@dataclass(frozen=True)
class Colour:
    """How a stream's numbers mean light: code points of ITU-T H.273, range 1 (studio) or 2 (full)."""

    matrix: int
    primaries: int
    transfer: int
    range: int


@dataclass(frozen=True)
class StreamInfo:
    """A stream of the source that is copied, not restored; `size`: of all its packets, in bytes.

    `type` is FFmpeg's, but `cover` of a picture that stands for the whole film.
    """

    index: int
    type: str
    codec: str
    size: int = 0


@dataclass(frozen=True)
class SeekPoint:
    """A keyframe: the presentation index of its frame, and the dts to seek to."""

    frame: int
    dts: int


@dataclass(frozen=True)
class VideoInfo:
    """What holds for a whole film. Times are in units of `time_base`.

    `subsampling`: pixels per sample of chroma, across and down; 2, 2 also where there is no colour. `grey`:
    none of its frames has any. `joints`: by how much the times of each part that was joined to the film were
    moved; its other streams' are, too.
    """

    path: Path
    container: str
    stream: int
    codec: str
    width: int
    height: int
    depth: int
    time_base: Fraction
    rate: Fraction
    colour: Colour
    sample_aspect_ratio: Fraction | None
    display_matrix: tuple[int, ...] | None
    others: tuple[StreamInfo, ...]
    notes: tuple[str, ...]
    subsampling: tuple[int, int] = (2, 2)
    grey: bool = False
    joints: tuple[int, ...] = ()


@dataclass(frozen=True)
class Film:
    """A film as one whole decoding pass found it: every frame's timestamp, in order of presentation."""

    info: VideoInfo
    pts: tuple[int, ...]
    last_duration: int
    seek_points: tuple[SeekPoint, ...]


@dataclass(frozen=True)
class Layout:
    """Where a film goes: its container, and which other streams of the source go with it.

    `transcoded`: sound that the container cannot hold, which becomes lossless sound that it can, of
    `transcoded_size` bytes.
    """

    container: str
    copied: tuple[int, ...]
    notes: tuple[str, ...]
    transcoded: tuple[int, ...] = ()
    transcoded_size: int = 0

    @property
    def carried(self) -> tuple[int, ...]:
        """All streams that go with it."""
        return (*self.copied, *self.transcoded)


@dataclass(frozen=True)
class ImageInfo:
    """A picture as its file describes it; `depth` is bits per channel, 8 or 16.

    `held` names what it holds beside its colours, with the length in bytes where that counts; `notes` say
    what is lost when it is read.
    """

    path: Path
    format: str
    width: int
    height: int
    depth: int
    held: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of a film, the first its frame `start`: one unit of work.

    `pts` are their timestamps; `before` and `after` those of neighbouring frames that are looked at, but
    belong to other chunks. `seek` is the last keyframe before all of them, if one can be trusted.
    """

    index: int
    start: int
    pts: tuple[int, ...]
    seek: SeekPoint | None
    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    @property
    def first(self) -> int:
        """Index of the first frame that is decoded."""
        return self.start - len(self.before)

    @property
    def decoded(self) -> tuple[int, ...]:
        """Timestamps of all frames that are decoded."""
        return self.before + self.pts + self.after

    @property
    def own(self) -> range:
        """Indices of the frames that are restored."""
        return range(self.start, self.start + len(self.pts))


@dataclass(frozen=True)
class TemporalSettings:
    """What frames of a film learn from each other.

    off: nothing, each has noise of its own; static: noise stays in its place, and what does not change is
    not computed again; full: noise and pictures also follow the motion. `static_tolerance` is in levels of
    255.
    """

    mode: Literal["off", "static", "full"]
    anchor_interval: int
    static_tolerance: float

    @property
    def context(self) -> tuple[int, int]:
        """How many frames before and after a chunk have an influence on it."""
        if self.mode == "off":
            return 0, 0
        reach = self.anchor_interval + self.anchor_interval // 2 + 1
        return reach, reach


Precision = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True)
class ModelSettings:
    """Everything that decides what the networks compute, but the pictures.

    `model` is a directory, `fingerprint` that of its files; where it is empty any files will do. `precision`
    is auto only until a job is planned: no worker ever sees that.
    """

    model: str
    timesteps: tuple[int, ...]
    scale: float
    seed: int
    tile: int | None
    tile_batch: int
    frame_batch: int
    color_fix: Literal["none", "wavelet", "ycbcr"]
    guidance_scale: float
    precision: Precision | Literal["auto"]
    temporal: TemporalSettings
    fingerprint: str = ""


@dataclass(frozen=True)
class VideoSettings:
    """How a restored film is encoded."""

    codec: str
    crf: int
    preset: str
    pixel_format: str
    container: str
    threads: int
    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ImageSettings:
    """How a restored picture is written."""

    format: str
    quality: int


@dataclass(frozen=True)
class VideoTask:
    """One chunk of a film for a worker: decode, restore, encode into `output`.

    `identity`: what the film was when it was looked at.
    """

    info: VideoInfo
    chunk: Chunk
    model: ModelSettings
    video: VideoSettings
    output: Path
    identity: Identity | None = None
    kind: Literal["video"] = "video"


@dataclass(frozen=True)
class ImageTask:
    """One picture for a worker: read, restore, write into `output`.

    `identity`: what the picture was when it was looked at.
    """

    info: ImageInfo
    model: ModelSettings
    image: ImageSettings
    output: Path
    identity: Identity | None = None
    kind: Literal["image"] = "image"


Task = VideoTask | ImageTask


SMALLEST_SIDE = 8  # of an input, in pixels
BT601_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: the shares of red, green and blue


def largest_level(bits: int) -> int:
    """The largest level of integers of so many bits: more than 8 are held in 16."""
    return 65535 if bits > 8 else 255


def output_size(width: int, height: int, scale: float, *, even: bool) -> tuple[int, int]:
    """(width, height) of the result; `even` for chroma-subsampled pixel formats."""
    if even:
        return 2 * max(1, round(width * scale / 2)), 2 * max(1, round(height * scale / 2))
    return round(width * scale), round(height * scale)

"""Films through a restorer: steady in time, and nothing is computed twice.

Four steps make it so (docs/temporal.md). Each looks at a limited number of frames, so a chunk comes out as
if the whole film had been restored at once:

1. Frames are averaged with those around them where nothing moves. This removes sensor noise.
2. Noise is anchored. Every `interval` frames, and on both sides of a cut, it is the canvas's own. In between
   it follows the motion from the anchor before and from the anchor after, and is cross-faded.
3. Tiles in which nothing changes from one anchor to the next are restored at the anchors only, and faded in
   between. A tile that repeats the pixels of the previous frame is taken from there.
4. Each frame is fused with its neighbours along the motion.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..blending import Blend, cut, reflect_pad
from ..noise import CanvasNoise, NoiseSource
from ..options import Options, Unit
from ..tiled import PictureRestorer, picture_of
from ..tiling import Tile, TilePlan, plan_tiles
from .averaging import Averaged, FilmFrame, average, pixels_changed
from .coverage import box_around, pixels_covered, tiles_touched
from .covering import HALO, Block, covering, fine, merged
from .fusion import Neighbour, agreement, fuse
from .moments import Moment
from .noise import AnchorNoise, MovedNoise
from .traces import Trace
from .windows import handed_over, windows, with_next


@dataclass(frozen=True)
class _Finished:
    """A result, and what it was made from, where that was its own moment alone."""

    canvas: Tensor
    noise: NoiseSource
    pixels: Tensor
    result: Tensor

    def repeats(self, canvas: Tensor, noise: NoiseSource, pixels: Tensor) -> bool:
        """Whether it would be made from the very same again."""
        return self.canvas is canvas and self.noise is noise and torch.equal(self.pixels, pixels)


class FilmRestorer:
    """Restores the frames of one film, in order."""

    def __init__(
        self,
        model: PictureRestorer,
        options: Options,
        *,
        seed: int,
        interval: int = 12,
        tolerance: float = 2 / 255,
        frame_batch: int = 1,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare for one film.

        Args:
            model: restores the tiles.
            options: how, as for pictures.
            seed: of the noise.
            interval: frames from one anchor to the next.
            tolerance: a pixel that changes by less, of a full range of 1, has not changed.
            frame_batch: frames whose tiles are handed to the model together.
            alive: is called after each tile.

        Raises:
            ValueError: the model cannot take the options' tile.
        """
        self._model = model
        self.scale = model.scale
        self._options = options
        self._canvas_noise = CanvasNoise(seed)
        self._anchor_noise = AnchorNoise(self._canvas_noise)
        self._interval = interval
        self.tolerance = tolerance
        self._frame_batch = frame_batch
        self._alive = alive
        self._canvas_device = options.canvas_device or model.device
        self._most = model.tiling_for(options.tile)
        self._tiling = fine(self._most)
        # What a model that is not bound to its tile sees around it.
        self._halo = 0 if self._most.fill_tile else -(-HALO // self._most.multiple) * self._most.multiple
        self._finished: _Finished | None = None
        self._wanted = range(0)

    def restore(self, frames: Iterable[FilmFrame], wanted: range) -> Iterator[Tensor]:
        """The wanted frames (by index), each [3,H,W] float32 in [0,1] of the options' size.

        `frames` are consecutive; the first is an anchor (its index a multiple of the interval, or a cut), or
        others before the first anchor are not given. For results that do not depend on where they begin and
        end, they reach `interval + interval // 2 + 1` frames further than `wanted` on either side, as far as
        there are any. A frame that repeats the one before gives the very same tensor. With the first of them
        ValueError is raised if the timesteps are beyond the model's.
        """
        self._wanted = wanted
        results = self._results(frames)
        # No generator, which would hold on to a result until the next one is there.
        return iter(torch.inference_mode()(partial(next, results, None)), None)

    def _results(self, frames: Iterable[FilmFrame]) -> Iterator[Tensor]:
        half, wanted = self._interval // 2, self._wanted
        # The anchor before the frame before the first wanted one; and what changes at an anchor depends on
        # all frames since the one before it.
        earliest = (wanted.start - 2) // self._interval * self._interval
        averaged = (
            Averaged(window[place], average(window, place, half))
            for window, place in windows(map(self._here, frames), half + half // 3)
            if window[place].index >= earliest
        )
        for window, place in windows(self._moments(averaged), 1):
            if window[place].index in wanted:
                yield self._result(window, place)
            if window[place].index >= wanted.stop - 1:
                return

    def _here(self, frame: FilmFrame) -> FilmFrame:
        return replace(frame, pixels=frame.pixels.to(self._model.device))

    # From anchor to anchor

    def _moments(self, frames: Iterable[Averaged]) -> Iterator[Moment]:
        """Every frame from the first anchor on."""
        start: Moment | None = None
        run: list[Averaged] = []
        for averaged, following in with_next(frames):
            anchor = averaged.frame.cut or averaged.frame.index % self._interval == 0
            if start is not None:
                run.append(averaged)
            elif anchor:
                start = self._anchor(averaged, None)
            else:
                continue
            last = following is None or following.frame.cut
            if run and (anchor or last):
                between, end = self._between(start, run)
                yield start
                yield from handed_over(between)
                start, run = end, []
            if last:
                yield start
                start = None

    def _anchor(self, averaged: Averaged, before: Moment | None) -> Moment:
        """What is exactly as it was at the anchor before, as far as it is looked at, is taken from there."""
        plan = self.plan(averaged)
        every = set(range(len(plan.tiles)))
        changed = every
        if before is not None:
            changed = tiles_touched((averaged.pixels != before.averaged.pixels).any(0), plan, self._halo)
        if before is None or changed == every:
            return Moment(averaged, self._anchor_noise, partial(self._at_anchor, averaged, every, None))

        def compute() -> Tensor:
            if not changed:
                return before.canvas()
            if not before.computed:
                return self._at_anchor(averaged, every, None)
            return self._at_anchor(averaged, changed, before.canvas())

        return Moment(averaged, self._anchor_noise, compute)

    def _at_anchor(self, averaged: Averaged, chosen: Collection[int], ground: Tensor | None) -> Tensor:
        plan = self.plan(averaged)
        (blend,) = self.restored([averaged], [self._anchor_noise], [chosen], [ground], plan)
        return blend.result()[0]

    def _between(self, start: Moment, run: Sequence[Averaged]) -> tuple[list[Moment], Moment]:
        """The moments after an anchor up to the next, and that one."""
        frames = [start.averaged, *run]
        end = self._anchor(run[-1], start)
        interval = _Interval(self, frames, self._noises(frames), start, end)
        moments = interval.moments(start)
        for moment in (start, *moments, end):
            moment.changing |= interval.changing
        return moments, end

    def _noises(self, frames: Sequence[Averaged]) -> list[NoiseSource]:
        """Each frame's noise, the canvas's own where nothing has moved."""
        motions = [averaged.motion for averaged in frames[1:] if averaged.motion is not None]
        if len(motions) < len(frames) - 1 or all(motion.still.all() for motion in motions):
            return [self._anchor_noise] * len(frames)
        height, width = frames[0].pixels.shape[-2:]
        before, after = [Trace.at_anchor(height, width)], [Trace.at_anchor(height, width)]
        for motion in motions:
            before.append(before[-1].followed(motion.backward, motion.stems))
        for motion in reversed(motions):
            after.append(after[-1].followed(motion.forward, motion.leads))
        pairs = zip(before, reversed(after), strict=True)
        return [
            MovedNoise(self._canvas_noise, *pair, share=place / len(motions))
            for place, pair in enumerate(pairs)
        ]

    def restored(
        self,
        frames: Sequence[Averaged],
        noises: Sequence[NoiseSource],
        chosen: Sequence[Collection[int]],
        grounds: Sequence[Tensor | None],
        plan: TilePlan,
    ) -> list[Blend]:
        """For each frame its chosen tiles (by index), restored, over the ground that stands for others."""
        blends = [self._blend(plan, ground) for ground in grounds]
        padded = reflect_pad(torch.stack([averaged.pixels for averaged in frames]), plan)
        pieces = {
            Unit(number, whole): blocks
            for number, tiles in enumerate(chosen)
            for whole, blocks in self._pieces(plan, tiles)
        }
        units = sorted(pieces, key=lambda unit: (unit.tile.height, unit.tile.width))
        for unit, output in self._model.sampled(padded, units, plan, noises, self._options):
            self._alive()
            for whole, inside in pieces[unit]:
                part = cut(output, _within(whole, unit.tile), self.scale)
                blends[unit.frame].add_block(0, whole, inside, part.to(self._canvas_device))
        return blends

    def _pieces(self, plan: TilePlan, tiles: Collection[int]) -> list[tuple[Tile, list[Block]]]:
        """What the model is given for some tiles: each by itself if it is bound to its tile."""
        most = self._most
        if most.fill_tile:
            return [(block[0], [block]) for block in merged(plan, tiles, most.tile)]
        return covering(plan, tiles, self._halo, most.tile)

    def _blend(self, plan: TilePlan, ground: Tensor | None) -> Blend:
        shape = (1, plan.height * self.scale, plan.width * self.scale)
        return Blend(shape, plan, self.scale, self._canvas_device, None if ground is None else ground[None])

    def together(self, first: int) -> range:
        """The frames (by index) that are restored together with a frame: no more than are wanted."""
        if first not in self._wanted:
            return range(first, first + 1)
        return range(first, min(first + self._frame_batch, self._wanted.stop))

    def plan(self, averaged: Averaged) -> TilePlan:
        return plan_tiles(averaged.pixels.shape[-2], averaged.pixels.shape[-1], self._tiling)

    # From canvas to result

    def _result(self, window: Sequence[Moment], place: int) -> Tensor:
        moment = window[place]
        canvas, noise, pixels = moment.canvas(), moment.noise, moment.averaged.pixels
        plan = self.plan(moment.averaged)
        own = picture_of(canvas, plan, pixels.shape[-2:], self.scale)
        beside = list(_beside(window, place))
        changing = moment.changing.union(*(other.changing for other, *_ in beside))
        if beside and changing:
            # What only fades has nothing to fuse: that would round off where it turns, at anchors.
            covered = pixels_covered(changing, plan, pixels.shape[-2:])
            there = covered.to(pixels.device)
            neighbours = [self._neighbour(moment, *each, there, plan) for each in beside]
            fused = fuse(own, neighbours, box_around(covered), self.scale)
            removed = (own.mean(0) - fused.mean(0))[None, None]  # no third picture
            self._finished = None
            return self._model.finish(fused[None], pixels[None], plan, [noise], self._options, removed)[0]
        if self._finished is None or not self._finished.repeats(canvas, noise, pixels):
            result = self._model.finish(own.clone()[None], pixels[None], plan, [noise], self._options)[0]
            self._finished = _Finished(canvas, noise, pixels, result)
        return self._finished.result

    def _neighbour(
        self, own: Moment, other: Moment, flow: Tensor, trusted: Tensor, changing: Tensor, plan: TilePlan
    ) -> Neighbour:
        pixels = own.averaged.pixels
        flow, trusted = flow.to(pixels), trusted.to(pixels.device)
        weight = agreement(pixels, other.averaged.pixels, flow, trusted & changing)
        restored = picture_of(other.canvas(), plan, pixels.shape[-2:], self.scale)
        return Neighbour(restored, flow.to(restored), weight.to(restored))


class _Interval:
    """The frames between two anchors, and how their canvases come about."""

    def __init__(
        self,
        film: FilmRestorer,
        frames: Sequence[Averaged],
        noises: Sequence[NoiseSource],
        start: Moment,
        end: Moment,
    ) -> None:
        """`frames`, `noises`: both anchors' included."""
        self._film = film
        self._frames = frames
        self._noises = noises
        self._plan = film.plan(frames[0])
        self._blends: dict[int, Blend] = {}
        self._touched_at: dict[int, set[int]] = {}
        self.changing = frozenset(tiles_touched(pixels_changed(frames, film.tolerance), self._plan))
        # What fades; nothing where all changes: anchors' canvases are large.
        self._ends = None if len(self.changing) == len(self._plan.tiles) else (start, end)

    def moments(self, start: Moment) -> list[Moment]:
        """The moments between the anchors. Only a moment yet to be computed holds on to the one before it."""
        moments = [start]
        for place in range(1, len(self._frames) - 1):
            compute = partial(self._canvas, place, moments[-1])
            moments.append(Moment(self._frames[place], self._noises[place], compute))
        return moments[1:]

    def _canvas(self, place: int, previous: Moment) -> Tensor:
        """Tiles that change are restored, or kept where the frame repeats the one before; others fade."""
        touched = self._touched(place)
        if not touched:
            return previous.canvas()
        if not self.changing:
            faded = self._faded(place)
            assert faded is not None
            return faded
        blend = self._restored(place)
        whole_canvas = max(self._plan.height, self._plan.width)
        for whole, inside in merged(self._plan, self.changing - touched, whole_canvas):
            blend.add_block(0, whole, inside, cut(previous.canvas(), whole, self._film.scale))
        return blend.result()[0]

    def _restored(self, place: int) -> Blend:
        if place not in self._blends:
            first = self._frames[place].frame.index
            places = [place + number - first for number in self._film.together(first)]
            touched = {each: self._touched(each) for each in places if each < len(self._frames) - 1}
            places = [each for each, tiles in touched.items() if tiles]
            blends = self._film.restored(
                [self._frames[each] for each in places],
                [self._noises[each] for each in places],
                [self.changing & touched[each] for each in places],
                [self._faded(each) for each in places],
                self._plan,
            )
            self._blends.update(zip(places, blends, strict=True))
        return self._blends.pop(place)

    def _touched(self, place: int) -> set[int]:
        """The tiles in which a frame does not repeat the pixels of the one before."""
        if place not in self._touched_at:
            one, other = (self._frames[each].frame.pixels for each in (place - 1, place))
            self._touched_at[place] = tiles_touched((one != other).any(0), self._plan)
        return self._touched_at[place]

    def _faded(self, place: int) -> Tensor | None:
        if self._ends is None:
            return None
        one, other = (end.canvas() for end in self._ends)
        return one if one is other else torch.lerp(one, other, place / (len(self._frames) - 1))


def _beside(window: Sequence[Moment], place: int) -> Iterator[tuple[Moment, Tensor, Tensor]]:
    """The moments before and after one in its shot, each with the flow to it and where that is trusted."""
    if place > 0 and (motion := window[place].averaged.motion) is not None:
        yield window[place - 1], motion.backward, motion.stems
    if place + 1 < len(window) and (motion := window[place + 1].averaged.motion) is not None:
        yield window[place + 1], motion.forward, motion.leads


def _within(tile: Tile, whole: Tile) -> Tile:
    """A tile in coordinates of the one it is part of."""
    return Tile(tile.index, tile.top - whole.top, tile.left - whole.left, tile.height, tile.width)

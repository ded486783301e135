"""Motion through a film as tensors: flows between neighbouring frames, and traces to an anchor.

Everything is on the LR grid; flows and displacements are in LR pixels, (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..tiling import TilePlan


@dataclass(frozen=True)
class Motion:
    """Between a frame and the next one.

    `forward` float [2,h,w]: what is at p in the earlier frame is at p + forward[:,p] in the later one;
    `backward` the other way round. `leads`, `stems`: bool [h,w], where they can be trusted, in the earlier
    and in the later frame. `still`: bool [h,w], where nothing moved; both flows are zero there.
    """

    forward: Tensor
    backward: Tensor
    leads: Tensor
    stems: Tensor
    still: Tensor


@dataclass(frozen=True)
class Trace:
    """Where each pixel's content lay at an anchor: float [2,h,w] away; bool [h,w] whether it was in sight."""

    displacement: Tensor
    seen: Tensor

    @classmethod
    def at_anchor(cls, height: int, width: int) -> Trace:
        return cls(torch.zeros(2, height, width), torch.ones(height, width, dtype=torch.bool))

    def followed(self, flow: Tensor, trusted: Tensor) -> Trace:
        """The trace of a neighbouring frame, from which `flow` leads to this one's."""
        flow = flow.float()
        height, width = trusted.shape
        displacement = flow + sampled(self.displacement[None], flow, "bilinear")[0]
        seen = sampled(self.seen[None, None].float(), flow, "nearest")[0, 0] > 0.5
        y = torch.arange(height, device=flow.device)[:, None] + flow[1]
        x = torch.arange(width, device=flow.device) + flow[0]
        inside = (y >= -0.5) & (y <= height - 0.5) & (x >= -0.5) & (x <= width - 0.5)
        return Trace(displacement, seen & trusted & inside)

    def on(self, plan: TilePlan, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """In cells of another grid over the padded canvas: displacement and sight."""
        displacement, seen = self.padded(plan)
        scale = torch.tensor([columns / plan.width, rows / plan.height]).view(2, 1, 1)
        resized = _resized(displacement[None], rows, columns)[0] * scale
        return resized, _resized(seen[None, None], rows, columns)[0, 0] > 0.5

    def padded(self, plan: TilePlan) -> tuple[Tensor, Tensor]:
        """On the padded canvas, whose padding is still: displacement [2,H,W] and sight [H,W], 0 or 1."""
        height, width = self.seen.shape
        margins = (plan.left, plan.width - width - plan.left, plan.top, plan.height - height - plan.top)
        displacement = functional.pad(self.displacement, margins)
        return displacement, functional.pad(self.seen.float(), margins, value=1.0)


def _resized(values: Tensor, rows: int, columns: int) -> Tensor:
    if rows < values.shape[-2]:
        return functional.interpolate(values, (rows, columns), mode="area")
    return functional.interpolate(values, (rows, columns), mode="bilinear")


def sampled(pictures: Tensor, flow: Tensor, mode: str, top: int = 0, left: int = 0) -> Tensor:
    """[1,C,H,W] where `flow` [2,h,w] points to from the pixels from (top, left) on; the border repeated."""
    height, width = pictures.shape[-2:]
    y = torch.arange(top, top + flow.shape[1], device=flow.device)[:, None] + flow[1]
    x = torch.arange(left, left + flow.shape[2], device=flow.device) + flow[0]
    # grid_sample's coordinates: -1 and 1 are the outer edges of the border pixels.
    grid = torch.stack(((x + 0.5) * (2 / width) - 1, (y + 0.5) * (2 / height) - 1), dim=-1)
    return functional.grid_sample(pictures, grid[None], mode=mode, padding_mode="border", align_corners=False)


def enlarged(values: Tensor, rows: slice, scale: int) -> Tensor:
    """[C,H,W] -> [C,s(rows),sW] bilinear, as if all of it were enlarged."""
    first, last = max(0, rows.start - 1), min(values.shape[-2], rows.stop + 1)
    part = functional.interpolate(values[None, :, first:last], scale_factor=scale, mode="bilinear")[0]
    above = (rows.start - first) * scale
    return part[:, above : above + (rows.stop - rows.start) * scale]

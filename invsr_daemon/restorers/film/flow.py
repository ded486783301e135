"""Motion between neighbouring frames of a film, estimated on the frames as they are (low resolution).

Flow comes from DIS (Kroeger et al., ECCV 2016) in OpenCV, in both directions: what does not find back
to where it came from is not trusted. Where standing still explains the pixels as well as the flow does,
nothing moves: noise and flat areas would otherwise drift. Which flow, and why: docs/temporal.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Grey = NDArray[np.uint8]
Flow = NDArray[np.float32]
Mask = NDArray[np.bool_]

WINDOW = 15
BLUR_SIGMA = 1.0
# Residuals (0..255) up to which standing still is as good as moving: of the flow's own, and at least.
STILL_FACTOR, STILL_LEAST = 1.2, 0.1
# And of what the calmest part of the picture has, which is its noise. Black bars tell nothing of it.
CALM_SHARE, CALM_FACTOR, CALM_LEAST = 0.2, 1.5, 0.1
# Forward and backward flow may differ by so many pixels, and by this share of their length.
AGREEMENT, AGREEMENT_SHARE = 0.3, 0.05
# Of two frames on either side of a cut hardly anything agrees, and much changes.
CUT_TRUSTED, CUT_RESIDUAL = 0.5, 6.0


@dataclass(frozen=True)
class FoundMotion:
    """Between a frame and the next one, both [h,w].

    `forward` [h,w,2]: what is at p in the earlier frame is at p + forward[p] (x, y) in the later one;
    `backward` the other way round. `leads`, `stems`: where they can be trusted, in the earlier frame and in
    the later one. `still`: where nothing moved (both flows are zero there, and trusted).
    """

    forward: Flow
    backward: Flow
    leads: Mask
    stems: Mask
    still: Mask


def between(earlier: Grey, later: Grey) -> FoundMotion | None:
    """The motion between two grey frames; None at a cut. Several threads may ask at once."""
    if min(earlier.shape) < WINDOW:  # smaller than what DIS looks at: all of it new
        return None
    # DIS works in as many stripes as there are threads, and its result depends on their number.
    cv2.setNumThreads(1)
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Down to the frame's own pixels, not twice as large ones: half the error.
    dis.setFinestScale(0)
    forward, backward = _flow(dis, earlier, later), _flow(dis, later, earlier)
    leads, stems = _agreeing(forward, backward), _agreeing(backward, forward)
    one, other = _blurred(earlier), _blurred(later)
    moved = _residual(one, _sampled(other, forward))
    if leads.mean() < CUT_TRUSTED and moved.mean() > CUT_RESIDUAL:
        return None
    unmoved = _residual(one, other)
    still = unmoved <= STILL_FACTOR * moved + STILL_LEAST
    telling = unmoved[~_near_blank(earlier, later)]
    calm = np.quantile(telling, CALM_SHARE) if telling.size else 0.0
    still &= unmoved <= CALM_FACTOR * calm + CALM_LEAST
    forward[still], backward[still] = 0, 0
    return FoundMotion(forward, backward, leads | still, stems | still, still)


def _flow(dis: cv2.DISOpticalFlow, one: Grey, other: Grey) -> Flow:
    return np.asarray(dis.calc(one, other, None), np.float32)  # type: ignore[call-overload]


def grey(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Grey:
    """[H,W,3] RGB of 8 or 16 bits -> [H,W] luma of 8 bits (BT.601)."""
    eight = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    return np.asarray(cv2.cvtColor(eight, cv2.COLOR_RGB2GRAY), np.uint8)


def _agreeing(flow: Flow, back: Flow) -> Mask:
    """Where following `flow` and then `back` leads to where one was."""
    astray = np.linalg.norm(flow + _sampled(back, flow), axis=2)
    return np.asarray(astray <= AGREEMENT + AGREEMENT_SHARE * np.linalg.norm(flow, axis=2))


def _sampled(values: NDArray[np.float32], flow: Flow) -> NDArray[np.float32]:
    """`values` [h,w,...] where `flow` points to, bilinear; the border repeated."""
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(width, dtype=np.float32)
    y = flow[..., 1] + np.arange(height, dtype=np.float32)[:, None]
    sampled = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32)


def _blurred(frame: Grey) -> NDArray[np.float32]:
    """Sampling between pixels averages noise away, which would speak for moving: so it goes beforehand."""
    return np.asarray(cv2.GaussianBlur(frame.astype(np.float32), (0, 0), BLUR_SIGMA), np.float32)


def _near_blank(one: Grey, other: Grey) -> Mask:
    """Where all is of one unchanging level in a window, and where residuals have a share of that."""
    window, around = (np.ones((side, side), np.uint8) for side in (WINDOW, 3 * WINDOW))
    blank = (cv2.erode(one, window) == cv2.dilate(one, window)) & (one == other)
    return np.asarray(cv2.dilate(blank.astype(np.uint8), around) > 0)


def _residual(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean absolute difference in windows, 0..255."""
    return np.asarray(cv2.blur(np.abs(one - other), (WINDOW, WINDOW)), np.float32)

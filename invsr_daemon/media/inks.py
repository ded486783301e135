"""CMYK as RGB."""

from __future__ import annotations

import io

from PIL import Image, ImageCms


def inks_as_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A CMYK picture as sRGB: by its ICC profile if that can be used, otherwise as Pillow reckons it."""
    transform = _transform(profile)
    if transform is None:
        return image.convert("RGB")
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # it is where the picture is not converted in place
    return converted


def are_inks_described(profile: bytes | None) -> bool:
    """Whether a profile says what colours the inks are."""
    return _transform(profile) is not None


def _transform(profile: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """From a profile of CMYK to sRGB; None if there is none, or it is damaged or of something else."""
    if profile is None:
        return None
    try:
        return ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            "CMYK",
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None

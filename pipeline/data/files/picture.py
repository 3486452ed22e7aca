"""One encoded image: whether it can be used, which its header says, and its pixels at the size that is asked for."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import InputError
from pipeline.params import DataParams

__all__ = ["Header", "decode", "pixels_at_size", "read_header"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MODES = {"1": 1, "L": 1, "RGB": 3}  # channels of what can be used
KINDS = {  # of what cannot be, by the mode of Pillow
    "P": "a palette image",
    "PA": "a palette image",
    "LA": "an image with an alpha channel",
    "La": "an image with an alpha channel",
    "RGBA": "an image with an alpha channel",
    "RGBa": "an image with an alpha channel",
    "CMYK": "a CMYK image",
}
MOST = 2**26  # pixels of an image; more may be a small file that unpacks to fill the memory
ORIENTATION, SIDEWAYS = 0x0112, (5, 6, 7, 8)  # the tag of EXIF, and its values that swap width and height


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded."""

    form: str
    channels: int
    height: int
    width: int


def read_header(source: Path | bytes, name: str) -> Header:
    """Return what the header says; raise `InputError`, which begins with `name`, where the image cannot be used."""
    with _opened(source, name) as image:
        if image.width * image.height > MOST:
            raise InputError(f"{name}: {image.width} x {image.height} pixels; allowed: {MOST} pixels")
        layout = str(getattr(image, "tile", ""))  # which says what the mode leaves out: Pillow halves 16 bits to 8
        if ";16" in layout or ";12" in layout or image.mode.startswith(("I", "F")):
            raise InputError(f"{name}: an image of more than 8 bits a channel; allowed: 8 bits a channel")
        if image.mode not in MODES:
            kind = KINDS.get(image.mode, f"an image of the kind {image.mode}")
            raise InputError(f"{name}: {kind}; allowed: grey levels or RGB, without transparency")
        if "transparency" in image.info:
            raise InputError(f"{name}: {KINDS['RGBA']}; allowed: grey levels or RGB, without transparency")
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # a JPEG with a second, smaller picture
            raise InputError(f"{name}: has {getattr(image, 'n_frames', 1)} frames; allowed: one")
        form = "JPEG" if image.format == "MPO" else str(image.format)
        channels, (width, height) = MODES[image.mode], image.size
        if image.getexif().get(ORIENTATION) in SIDEWAYS:
            # Before it is decoded, a TIFF image may have either size.
            width, height = ImageOps.exif_transpose(image).size if form == "TIFF" else (height, width)
        return Header(form, channels, height, width)


def decode(source: Path | bytes, name: str, channels: int, params: DataParams) -> np.ndarray:
    """Return an image's pixels, uint8 [D], channel after channel, upright, at the size of `data.size`."""
    with _opened(source, name) as image:
        upright = ImageOps.exif_transpose(image)
        return pixels_at_size(upright.convert("L" if channels == 1 else "RGB"), params)


def pixels_at_size(image: Image.Image, params: DataParams) -> np.ndarray:
    """Return the pixels, uint8 [D], of an image that was brought to `data.size` in the way of `data.fit`."""
    size = params.size
    if size is not None and image.size != (size, size):
        if params.fit == "crop":
            image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels.reshape(-1) if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)).reshape(-1)


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open an image of one of `FORMATS`; raise `InputError` for whatever Pillow raises on it, here or in the block."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as image:
                yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name}: not an image of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise InputError(f"{name}: more pixels than the {MOST} that are allowed") from None
    except Exception as error:  # whatever a damaged file makes a decoder raise
        raise InputError(f"{name}: cannot be decoded: {' '.join(str(error).split())[:200]}") from None

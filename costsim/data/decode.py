"""From the bytes of an image file to pixels."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from costsim.base.errors import InputError

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may decode, whatever a file is called: it knows others that start programs (EPS), or
that hardly anybody has tested."""

MAXIMUM_PIXELS = 64 * 1024 * 1024
"""More is taken for a decompression bomb: a small file that unpacks to fill the memory."""


def decode(data: bytes, what: str) -> Image.Image:
    """The first frame of an image file, upright, in mode `L` or `RGB`.

    16-bit grey is scaled to 8 bits; transparency is laid over white; palettes, CMYK and the
    other modes are converted; the EXIF orientation is applied. Raises `InputError` that
    begins with `what` for anything that cannot be decoded whole.
    """
    with warnings.catch_warnings():
        # Of oddities that do not change the pixels.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAXIMUM_PIXELS:
                    raise InputError(
                        f"{what}: {width}×{height} pixels; at most {MAXIMUM_PIXELS:,} are allowed"
                    )
                image.load()
                return _plain(ImageOps.exif_transpose(image), what)
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise InputError(f"{what}: more pixels than the {MAXIMUM_PIXELS:,} allowed") from error
        except UnidentifiedImageError as error:
            raise InputError(
                f"{what}: is not an image that can be read; read are {', '.join(FORMATS)}"
            ) from error
        except Exception as error:  # decoders raise whatever a damaged file trips over
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"{what}: damaged image: {reason}") from error


def pixels_of(data: bytes) -> int:
    """How many pixels an image file says that it has; 0 where it says nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return image.width * image.height
        except Exception:  # whatever it is, decoding says it
            return 0


def _plain(image: Image.Image, what: str) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise InputError(f"{what}: grey levels beyond 16 bits")
        return Image.fromarray(np.round(levels / 257).astype(np.uint8))
    if image.mode == "F":
        raise InputError(f"{what}: floating-point pixels; 8 or 16 bits are needed")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def to_levels(image: Image.Image, height: int, width: int, channels: int) -> NDArray[np.uint8]:
    """Pixels `[channels, height, width]` in 8 bits: the whole image, resized bilinearly.

    The aspect ratio is not kept, so that nothing of the image is cut off. `channels` is 1 or 3.
    """
    resized = image.convert("RGB" if channels == 3 else "L").resize(
        (width, height), Image.Resampling.BILINEAR
    )
    return np.asarray(resized, dtype=np.uint8).reshape(height, width, channels).transpose(2, 0, 1)

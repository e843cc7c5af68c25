"""A picture file of any kind, as a person sees it: RGB, upright, on white paper."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmlib.errors import UserError


def read_picture(path: Path, image_size: int = 64) -> Image.Image:
    """A picture as a person sees it on white paper: RGB, upright.

    A JPEG may be decoded smaller than its file, but not below `image_size` pixels.
    Transparency is laid on white, 16-bit gray is scaled to 8 bits, CMYK and palettes are converted,
    the EXIF orientation is applied; of an animation the first frame is taken.

    Raises UserError, naming the file, where it is missing, broken, or has so many pixels that
    decoding it could exhaust the memory (Pillow's limit).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                # a JPEG is decoded no larger than needed
                picture.draft(None, (2 * image_size, 2 * image_size))
                return _on_white(ImageOps.exif_transpose(picture))
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except PermissionError:
        raise UserError(f"{path} may not be read; change its permissions") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UserError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS:,} pixels; reduce it"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"{path} is not a picture") from None
    except Exception as error:  # a broken file can raise nearly anything in a decoder
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"{path} is broken ({reason})") from None


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would cut it off at 255
        gray = np.asarray(picture).astype(np.float64)
        top = 255 if picture.mode == "I" and gray.max(initial=0) <= 255 else 65535
        return Image.fromarray((gray.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert(
            "RGB"
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
            "RGB"
        )
    return picture.convert("RGB")


def picture_array(path: Path, image_size: int) -> np.ndarray:
    """The whole picture as uint8 [3, image_size, image_size]: nothing is cropped.

    The proportions may change.

    Raises UserError as `read_picture` does.
    """
    shape = (image_size, image_size)
    square = read_picture(path, image_size).resize(shape, Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

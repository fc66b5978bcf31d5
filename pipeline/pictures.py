"""Pictures as arrays: the one door to Pillow.

Shape legend: C channels, H height, W width.
"""

import io
import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

FILTERS: Mapping[str, Image.Resampling] = MappingProxyType(
    {each.name.lower(): each for each in Image.Resampling if each.name != "HAMMING"}
)
"""Ways to resize, by name."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded. Not PostScript: Pillow would have another program run what is in the file."""
MOST_PIXELS = 2**27
"""Of a picture once it is resized: a line of 1 x 60,000 pixels would else become one of 256 x 15 million."""
NEARLY = 1e-6  # 224 / 0.56 is 399.99999999999994 in floating point, and 400 is meant
UPRIGHT: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
"""What brings a picture upright, by its EXIF orientation; 1 is upright."""


class DamagedError(ValueError):
    """A picture that cannot be decoded. Its text is why; whoever knows the picture's name adds that."""


def resized(
    image_CHW: NDArray[np.generic],
    size: tuple[int, int],
    interpolation: str,
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """A part of an image, brought to a size.

    Args:
        image_CHW: uint8, of 1 or 3 channels.
        size: height and width.
        interpolation: one of `FILTERS`.
        box: left, top, right and bottom of the part, in pixels; None for all of it.

    Returns:
        `[C, *size]`.

    """
    height, width = size
    pixels = image_CHW[0] if len(image_CHW) == 1 else image_CHW.transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), FILTERS[interpolation], box)
    found = np.asarray(picture)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)  # noqa: PLR2004 - grey has no channel axis


def decoded(content: bytes, size: int, crop: float = 1.0, interpolation: str = "bilinear") -> NDArray[np.uint8]:
    """An encoded picture as a square of RGB, whatever it was encoded as.

    It is turned as its EXIF orientation says, and has three channels whether it was grey, indexed, CMYK or of 16 bits,
    of which the upper 8 are kept. What is transparent is seen over white, as on a page; its hidden colours and black
    are both wrong. Then it is resized so that its shorter side is `size / crop`, rounded down, and the middle is cut
    out, as torchvision and timm do. Of an animation the first picture counts.

    Several threads may decode at once: Pillow lets go of the interpreter meanwhile.

    Args:
        content: the bytes of the file.
        size: height and width of the result.
        crop: the share of the shorter side that is kept, above 0 and at most 1.
        interpolation: one of `FILTERS`.

    Returns:
        `[3, size, size]`.

    Raises:
        DamagedError: it is cut short, no picture, or far too large once it is decoded.

    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            picture.load()
            square = _middle(_upright(_in_rgb(picture), _orientation(picture)), size, crop, interpolation)
    except (DamagedError, MemoryError):  # memory that runs out says nothing of the picture
        raise
    except UnidentifiedImageError:
        raise DamagedError(f"it is no picture of a known format ({', '.join(FORMATS)})") from None
    except Exception as error:  # the decoders of damaged bytes: anything may come of it
        raise DamagedError(str(error).rstrip(".") or type(error).__name__) from error
    return np.asarray(square).transpose(2, 0, 1)


def _in_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise DamagedError("its pixels are floating-point numbers, expected integers of 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = _upper_bits(picture)
    if picture.has_transparency_data:
        seen = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    return picture.convert("RGB")


def _upper_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8: Pillow's own conversion would make white of all but the darkest."""
    values = np.asarray(picture)
    if values.min() < 0 or values.max() >= 2**16:
        raise DamagedError(f"its pixels are {values.min()}..{values.max()}, expected integers of 8 or 16 bits")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - a camera's notes that cannot be read do not make its picture a damaged one
        return 1


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else picture


def _middle(picture: Image.Image, size: int, crop: float, interpolation: str) -> Image.Image:
    """The square in the middle of the picture, once its shorter side is `size / crop`."""
    short = math.floor(size / crop + NEARLY)
    width, height = (short * side // min(picture.size) for side in picture.size)
    if width * height > max(MOST_PIXELS, short * short):
        raise DamagedError(
            f"it is {picture.width} x {picture.height} pixels, and would be {width} x {height} once its shorter side "
            f"is {short}, expected {MOST_PIXELS} in all at most"
        )
    left, top = round((width - size) / 2), round((height - size) / 2)
    return picture.resize((width, height), FILTERS[interpolation]).crop((left, top, left + size, top + size))

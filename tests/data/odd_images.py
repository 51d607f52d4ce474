"""Encoded images of every kind that turns up in folders, with pixels known in advance."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

COLOUR = (200, 100, 50)
SIZE = (6, 4)  # width, height


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def marked(mode="RGB", colour=COLOUR, mark=(10, 20, 30)):
    """Return an image of one colour but for its corner."""
    image = Image.new(mode, SIZE, colour)
    image.putpixel((0, 0), mark)
    return image


def palette():
    image = Image.new("P", SIZE, 1)
    image.putpalette([10, 20, 30, *COLOUR])
    image.putpixel((0, 0), 0)
    return image


def sixteen(dtype=np.uint16):
    """Return 0xC8FF, and 0x0AFF in the corner, whose upper halves are 200 and 10."""
    pixels = np.full((SIZE[1], SIZE[0]), 0xC8FF, dtype=dtype)
    pixels[0, 0] = 0x0AFF
    return pixels


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def colour_png_of_16_bits():
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixel, mark = (struct.pack(">3H", *(257 * value for value in colour)) for colour in (COLOUR, (10, 20, 30)))
    rows = b"".join(b"\0" + (mark if row == 0 else pixel) + pixel * (SIZE[0] - 1) for row in range(SIZE[1]))
    header = struct.pack(">IIBBBBB", *SIZE, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


MARK, GREY, GREY_MARK = (10, 20, 30), (200,) * 3, (10,) * 3
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
FRAMES = [marked(), Image.new("RGB", SIZE, "blue"), Image.new("RGB", SIZE, "lime")]
ANIMATED = {"save_all": True, "append_images": FRAMES[1:]}
TOP_LEFT, TOP_RIGHT, BOTTOM_LEFT = (0, 0), (0, -1), (-1, 0)

# Name: file's extension, content, colour of the corner, where the corner has gone, colour of the rest.
ODD = {
    "colour": ("png", encoded(marked()), MARK, TOP_LEFT, COLOUR),
    "colour of 16 bits": ("png", colour_png_of_16_bits(), MARK, TOP_LEFT, COLOUR),
    "grey": ("png", encoded(marked("L", 200, 10)), GREY_MARK, TOP_LEFT, GREY),
    "grey of 16 bits": ("png", encoded(Image.fromarray(sixteen())), GREY_MARK, TOP_LEFT, GREY),
    "grey of 16 bits, big end first": (
        "tif",
        encoded(Image.fromarray(sixteen(">u2")), "TIFF"),
        GREY_MARK,
        TOP_LEFT,
        GREY,
    ),
    "grey of 16 bits, turned": (
        "png",
        encoded(Image.fromarray(sixteen()), exif=rotated(6)),
        GREY_MARK,
        TOP_RIGHT,
        GREY,
    ),
    "pgm of 16 bits": ("pgm", b"P5 6 4 65535\n" + sixteen(">u2").tobytes(), GREY_MARK, TOP_LEFT, GREY),
    "one bit": ("png", encoded(marked("1", 1, 0)), BLACK, TOP_LEFT, WHITE),
    "palette": ("png", encoded(palette()), MARK, TOP_LEFT, COLOUR),
    "palette, one colour transparent": ("png", encoded(palette(), transparency=0), BLACK, TOP_LEFT, COLOUR),
    "palette, half transparent": (
        "png",
        encoded(palette(), transparency=bytes([255, 128])),
        MARK,
        TOP_LEFT,
        (100, 50, 25),
    ),
    "gif": ("gif", encoded(palette(), "GIF"), MARK, TOP_LEFT, COLOUR),
    "gif, transparent": ("gif", encoded(palette(), "GIF", transparency=0), BLACK, TOP_LEFT, COLOUR),
    "gif, animated": ("gif", encoded(FRAMES[0], "GIF", **ANIMATED), MARK, TOP_LEFT, COLOUR),
    "webp, animated": ("webp", encoded(FRAMES[0], "WEBP", lossless=True, **ANIMATED), MARK, TOP_LEFT, COLOUR),
    "png, animated": ("png", encoded(FRAMES[0], **ANIMATED), MARK, TOP_LEFT, COLOUR),
    "grey and alpha": ("png", encoded(marked("LA", (200, 255), (10, 0))), BLACK, TOP_LEFT, GREY),
    "colour and alpha": ("png", encoded(marked("RGBA", (*COLOUR, 255), (*MARK, 0))), BLACK, TOP_LEFT, COLOUR),
    "colour, half transparent": (
        "png",
        encoded(marked("RGBA", (*COLOUR, 128), (*MARK, 255))),
        MARK,
        TOP_LEFT,
        (100, 50, 25),
    ),
    "colour, one of them transparent": ("png", encoded(marked(), transparency=COLOUR), MARK, TOP_LEFT, BLACK),
    "cmyk": (
        "tif",
        encoded(marked("CMYK", (255, 0, 0, 0), (0, 255, 0, 0)), "TIFF"),
        (255, 0, 255),
        TOP_LEFT,
        (0, 255, 255),
    ),
    "cmyk jpeg": (
        "jpg",
        encoded(Image.new("CMYK", SIZE, (255, 0, 0, 0)), "JPEG", quality=100),
        (0, 255, 255),
        TOP_LEFT,
        (0, 255, 255),
    ),
    "turned clockwise": ("png", encoded(marked(), exif=rotated(6)), MARK, TOP_RIGHT, COLOUR),
    "turned anticlockwise": ("png", encoded(marked(), exif=rotated(8)), MARK, BOTTOM_LEFT, COLOUR),
    "upside down": ("png", encoded(marked(), exif=rotated(3)), MARK, (-1, -1), COLOUR),
    "mirrored": ("png", encoded(marked(), exif=rotated(2)), MARK, TOP_RIGHT, COLOUR),
    "an unknown turn": ("png", encoded(marked(), exif=rotated(99)), MARK, TOP_LEFT, COLOUR),
    "a broken tag": ("png", encoded(marked(), exif=b"Exif\0\0garbage"), MARK, TOP_LEFT, COLOUR),
    "another format than it is called": ("jpg", encoded(marked(), "BMP"), MARK, TOP_LEFT, COLOUR),
    "one pixel": ("png", encoded(Image.new("RGB", (1, 1), COLOUR)), COLOUR, TOP_LEFT, COLOUR),
    "one pixel high": ("png", encoded(Image.new("RGB", (5000, 1), COLOUR)), COLOUR, TOP_LEFT, COLOUR),
}

_NOISE = Image.effect_noise((60, 60), 50).convert("RGB")
_WHOLE = {kind: encoded(_NOISE, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM")}

# Name: content, what is said.
UNREADABLE = {
    **{f"half of a {kind}": (content[: len(content) // 2], "") for kind, content in _WHOLE.items()},
    **{f"a {kind} without its end": (content[:-100], "") for kind, content in _WHOLE.items()},
    "nothing": (b"", "cannot identify its format"),
    "text": (b"These are not pixels.\n", "cannot identify its format"),
    "a page": (b"<!DOCTYPE html><html>404</html>", "cannot identify its format"),
    "whole numbers": (encoded(Image.fromarray(sixteen(np.int32)), "TIFF"), "its mode I has no fixed range"),
    "real numbers": (encoded(Image.fromarray(sixteen(np.float32)), "TIFF"), "its mode F has no fixed range"),
    "200 million pixels": (b"P5 20000 10000 255\n", "more than 64,000,000 pixels; the environment"),
    "no pixels": (b"P5 0 4 255\n", ""),
}

"""Pictures for the tests of intake: drawn here, stored in every way that a client might, with secrets where asked."""

import io
import struct
import zlib

from PIL import ExifTags, Image, PngImagePlugin

SIZE = (320, 256)
SECRET = "52.5200N 13.4050E Erika Mustermann"


def drawing(mode: str = "RGB", size: tuple[int, int] = SIZE) -> Image.Image:
    """Left red, right green, a blue foot on the left: no turned or mirrored copy equals it."""
    image = Image.new("RGB", size, (200, 40, 30))
    image.paste((40, 180, 60), (size[0] // 2, 0, size[0], size[1]))
    image.paste((30, 50, 210), (0, size[1] * 3 // 4, size[0] // 2, size[1]))
    return image if mode == "RGB" else image.convert(mode)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def exif(orientation: int = 1, *, taken_at: str | None = None, secret: str = SECRET) -> bytes:
    """EXIF with a place, a name and a maker's note."""
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    tags[ExifTags.Base.Artist] = secret
    folder = tags.get_ifd(ExifTags.IFD.Exif)
    folder[ExifTags.Base.MakerNote] = secret.encode()
    if taken_at is not None:
        folder[ExifTags.Base.DateTimeOriginal] = taken_at
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    return tags.tobytes()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def with_png_chunks(data: bytes, *chunks: bytes) -> bytes:
    """The same PNG with more chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def png_header(width_px: int, height_px: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_jpeg_segments(data: bytes, *segments: bytes) -> bytes:
    """The same JPEG with more segments after its start."""
    return data[:2] + b"".join(segments) + data[2:]


def secretive_files() -> dict[str, bytes]:
    """One of each format with SECRET in every place that it has for such things."""
    text, xmp = PngImagePlugin.PngInfo(), f"<x:xmpmeta>{SECRET}</x:xmpmeta>".encode()
    text.add_text("Author", SECRET)
    text.add_text("Comment", SECRET * 9, zip=True)
    text.add_itxt("XML:com.adobe.xmp", SECRET)
    segments = (
        jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\x00" + xmp),
        jpeg_segment(0xED, b"Photoshop 3.0\x008BIM" + SECRET.encode()),
        jpeg_segment(0xE0, b"JFXX\x00\x10" + SECRET.encode()),
        jpeg_segment(0xEC, b"Ducky" + SECRET.encode()),
    )
    jpeg = encoded(drawing(), "JPEG", exif=exif(), comment=SECRET)
    return {
        "jpeg": with_jpeg_segments(jpeg, *segments) + b"PK\x03\x04" + SECRET.encode(),
        "png": encoded(drawing(), pnginfo=text, exif=exif()) + SECRET.encode(),
        "webp": encoded(drawing(), "WEBP", exif=exif(), xmp=xmp) + SECRET.encode(),
    }


def icc_profile(red: tuple[float, ...], green: tuple[float, ...], blue: tuple[float, ...]) -> bytes:
    """A display profile of gamma 2.2 with these primaries, as XYZ under D50."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(2.2 * 256)) + bytes(2)
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\x00" + bytes(79),
        b"wtpt": b"XYZ " + bytes(4) + fixed(0.9642, 1.0, 0.8249),
        **{name: b"XYZ " + bytes(4) + fixed(*xyz) for name, xyz in ((b"rXYZ", red), (b"gXYZ", green), (b"bXYZ", blue))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = bytearray(128)
    header[0:4] = struct.pack(">I", 128 + len(table) + len(body))
    header[8:24] = b"\x02\x40\x00\x00mntrRGB XYZ "
    header[36:40] = b"acsp"
    header[68:80] = fixed(0.9642, 1.0, 0.8249)
    return bytes(header) + table + body


RED, GREEN, BLUE = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)  # sRGB's own
SRGB_LIKE = icc_profile(RED, GREEN, BLUE)
SWAPPED = icc_profile(GREEN, RED, BLUE)  # what it calls red is green

"""Hostile pictures: broken, lying, swollen, and those that are something else as well."""

import struct
import zlib
from collections.abc import Callable, Mapping

from hostile_bases import BOMB_SIDE_PX, Bases
from hostile_draft import (
    Draft,
    Must,
    Whim,
    cut,
    flip_bits,
    jpeg_segment,
    patch,
    png_chunk,
    png_file,
    riff_chunk,
    zipped,
)

Maker = Callable[[Whim, Bases], Draft]
ANY_SIDE = 100_000
SCRIPT = b"<script>alert(document.cookie)</script>"


def picture(ending: str, data: bytes, must: Must = "either") -> Draft:
    """A file that is sent as an image."""
    return Draft(ending, "image", must, data)


def truncated(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick([*bases.pictures])
    return picture(ending, cut(bases.pictures[ending], whim.rng), "refused")


def bits_flipped(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick([*bases.pictures])
    return picture(ending, flip_bits(bases.pictures[ending], whim.rng, whim.rng.choice([1, 10, 200]), start=12))


def header_flipped(whim: Whim, bases: Bases) -> Draft:
    """As above, within the first bytes, where all the sizes are."""
    ending = whim.pick([*bases.pictures])
    data = bases.pictures[ending]
    return picture(ending, data[:8] + flip_bits(data[8:120], whim.rng, 4) + data[120:])


def wrong_magic(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick([*bases.pictures])
    return picture(ending, whim.rng.randbytes(4) + bases.pictures[ending][4:], "refused")


def gigapixel_header(whim: Whim, bases: Bases) -> Draft:
    jpeg, webp = bases.pictures["jpg"], bases.pictures["lossless.webp"]
    drafts = [
        ("png", png_file(ANY_SIDE, ANY_SIDE, zlib.compress(b""))),
        ("jpg", patch(jpeg, b"\xff\xc0", 3, struct.pack(">HH", 65_535, 65_535))),
        ("webp", patch(webp, b"VP8L", 5, b"\xff\xff\xff\x0f")),
        ("webp", patch(bases.pictures["webp"], b"\x9d\x01\x2a", 0, b"\xff\x3f\xff\x3f")),
        ("png", png_file(2**31 - 1, 1, zlib.compress(b""))),
    ]
    return picture(*whim.pick(drafts), must="refused")


def no_size(whim: Whim, bases: Bases) -> Draft:
    jpeg = bases.pictures["jpg"]
    drafts = [
        ("png", png_file(0, 0, zlib.compress(b""))),
        ("png", png_file(0, 300, zlib.compress(b""))),
        ("jpg", patch(jpeg, b"\xff\xc0", 3, bytes(4))),
        ("jpg", patch(jpeg, b"\xff\xc0", 3, bytes(2))),
        ("webp", patch(bases.pictures["webp"], b"\x9d\x01\x2a", 0, bytes(4))),
    ]
    return picture(*whim.pick(drafts), must="refused")


def one_colour_bomb(whim: Whim, bases: Bases) -> Draft:
    depth, colour = whim.pick([(1, 0), (8, 2), (1, 3), (16, 6), (8, 0)])
    data = png_file(BOMB_SIDE_PX, BOMB_SIDE_PX, bases.bomb, depth=depth, colour=colour)
    return picture(whim.pick(["png", "jpg"]), data, "refused")


def bomb_behind_a_small_header(whim: Whim, bases: Bases) -> Draft:
    width_px, interlace = whim.pick([300, 4_000]), whim.pick([0, 0, 1])
    depth, colour = whim.pick([(8, 2), (16, 6), (8, 4), (1, 0), (2, 3)])
    return picture("png", png_file(width_px, 300, bases.bomb, depth=depth, colour=colour, interlace=interlace))


def text_bomb(whim: Whim, bases: Bases) -> Draft:
    """Chunks of text and colour profiles of which each unfolds to 100 MB."""
    data = bases.pictures["png"]
    kinds = [(b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")]
    name, start = whim.pick(kinds)
    return picture("png", data[:33] + png_chunk(name, start + bases.zeros) * whim.pick([30, 1]) + data[33:])


def zip_bomb(whim: Whim, bases: Bases) -> Draft:
    gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + bases.zeros[2:] + bytes([whim.turn])
    return picture(
        whim.pick(["jpg", "png", "webp"]), whim.pick([zipped("zeros", bytes(20_000_000 + whim.turn)), gzip]), "refused"
    )


def foreign_format(whim: Whim, bases: Bases) -> Draft:
    return picture(whim.pick(["jpg", "png"]), bases.foreign_pictures[whim.pick([*bases.foreign_pictures])], "refused")


def animation(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick(["png", "webp", "gif"])
    others = [bases.picture.rotate(5 * turn) for turn in range(1, 3 + whim.turn)]
    return picture(ending, bases.store(ending, save_all=True, append_images=others), "refused")


def endless_animation(whim: Whim, bases: Bases) -> Draft:
    data = bases.pictures[whim.pick(["png", "alpha.png"])]
    counts = png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))
    frames = png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 1, 1, 0, 0, 1, 1_000, 0, 0)) * whim.pick([1, 100, 10_000])
    return picture("png", data[:33] + counts + frames + data[33:], "refused")


def polyglot(whim: Whim, bases: Bases) -> Draft:
    jpeg = bases.pictures["jpg"]
    drafts: list[tuple[str, bytes, Must]] = [
        ("jpg", jpeg + zipped("index.html", SCRIPT), "either"),
        ("jpg", b"%PDF-1.4\n" + jpeg, "refused"),
        ("gif", b"GIF89a=1;alert(1)//" + bases.foreign_pictures["gif"], "refused"),
        ("png", bases.pictures["png"] + SCRIPT * 100, "either"),
        ("jpg", jpeg[:2] + jpeg_segment(0xFE, SCRIPT * 100) + jpeg[2:], "either"),
    ]
    return picture(*whim.pick(drafts))


def lying_webp(whim: Whim, bases: Bases) -> Draft:
    lossy, alpha = bases.pictures["webp"], bases.pictures["alpha.webp"]
    drafts: list[tuple[bytes, Must]] = [
        (patch(lossy, b"VP8 ", 0, b"\xf0\xff\xff\xff"), "refused"),
        (patch(lossy, b"RIFF", 0, b"\xff\xff\xff\xff"), "either"),
        (patch(lossy, b"RIFF", 0, bytes(4)), "refused"),
        (patch(alpha, b"ALPH", 0, b"\x01\0\0\0"), "refused"),
        (patch(alpha, b"VP8X", 8, b"\xff" * 6), "either"),
        (b"RIFF" + struct.pack("<I", 10**6) + b"WEBP" + riff_chunk(b"JUNK", b"") * 100_000, "refused"),
    ]
    data, must = whim.pick(drafts)
    return picture("webp", data, must)


def many_segments(whim: Whim, bases: Bases) -> Draft:
    jpeg = bases.pictures["jpg"]
    segment = jpeg_segment(
        whim.pick([0xFE, 0xE1, 0xDB, 0xE2]), whim.pick([b"", b"Exif\0\0MM\0*\0\0\0\x08", b"\0" + bytes(64)])
    )
    return picture("jpg", jpeg[:2] + segment * 50_000 + jpeg[2:], "refused")


def many_scans(whim: Whim, bases: Bases) -> Draft:
    jpeg = bases.pictures["progressive.jpg"]
    jpeg = patch(jpeg, b"\xff\xc2", 3, struct.pack(">HH", 4_096, 4_096))
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return picture("jpg", jpeg[:-2] + scan[: whim.pick([20, 60, 200])] * (20_000 + whim.turn) + b"\xff\xd9", "refused")


def swollen_profile(whim: Whim, bases: Bases) -> Draft:
    """A colour profile of megabytes: noise, or a head that promises a table of all colours."""
    head = struct.pack(">I", 4_000_000) + b"lcms\x02\x40\0\0mntrRGB XYZ " + bytes(16) + b"acsp" + bytes(88)
    table = (
        struct.pack(">I", 2**31 - 1) + b"A2B0" + struct.pack(">II", 144, 2**31 - 1) + b"mft2" + bytes(4) + b"\3\3\xff"
    )
    profile = whim.pick([whim.rng.randbytes(4_000_000), head + table + bytes(3_000_000 + whim.turn)])
    return picture("jpg", bases.store("JPEG", icc_profile=profile))


def exif_maze(whim: Whim, bases: Bases) -> Draft:
    """EXIF whose folders lead back to themselves, or whose entries all point to the same large bytes."""
    entry = struct.pack(">HHII", 0x8769, 4, 1, 8) if whim.turn % 2 else struct.pack(">HHII", 0x9C9B, 7, 60_000, 8)
    folder = struct.pack(">H", 5_000 - whim.turn) + entry * (5_000 - whim.turn) + struct.pack(">I", 8)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + folder
    if whim.pick([True, True, False]):
        jpeg = bases.pictures["jpg"]
        return picture("jpg", jpeg[:2] + jpeg_segment(0xE1, exif) + jpeg[2:])
    return picture("webp", bases.store("WEBP", exif=exif))


def two_beginnings(whim: Whim, bases: Bases) -> Draft:
    jpeg, png = bases.pictures["jpg"], bases.pictures["png"]
    at = jpeg.index(b"\xff\xc0")
    frame = patch(jpeg[at : at + 19], b"\xff\xc0", 3, struct.pack(">HH", 65_000, 65_000 - whim.turn))
    size = png_chunk(b"IHDR", struct.pack(">IIBBBBB", ANY_SIDE, ANY_SIDE + whim.turn, 8, 2, 0, 0, 0))
    drafts = [("jpg", jpeg[:at] + frame + jpeg[at:]), ("png", png[:33] + size + png[33:])]
    return picture(*whim.pick(drafts), must="refused")


def odd_chunks(whim: Whim, bases: Bases) -> Draft:
    png = bases.pictures["png"]
    drafts: list[tuple[bytes, Must]] = [
        (png[:33] + png_chunk(b"IDAT", b"") * 100_000 + png[33:], "either"),
        (png[:33] + struct.pack(">I", 2**32 - 1) + png[37:], "refused"),
        (png[:33] + png_chunk(b"tRNS", bytes(10_000)) + png[33:], "either"),
        (png_file(300, 300, zlib.compress(bytes(300 * 301)), colour=3), "either"),
        (png_file(300, 300, zlib.compress(bytes(300 * 301)), depth=16, colour=5), "refused"),
        (png_file(300, 300, zlib.compress(bytes(10)), interlace=7), "refused"),
        (png[:33] + png_chunk(b"aaaa", b"") * 200_000 + png[33:], "either"),
    ]
    data, must = whim.pick(drafts)
    return picture("png", data, must)


def a_video(whim: Whim, bases: Bases) -> Draft:
    return picture(whim.pick(["jpg", "webp", "png"]), bases.clips[whim.pick([*bases.clips])], "refused")


KINDS: Mapping[str, Maker] = {
    "truncated picture": truncated,
    "picture with flipped bits": bits_flipped,
    "picture with flipped bits in its header": header_flipped,
    "picture with a wrong signature": wrong_magic,
    "header of gigapixels": gigapixel_header,
    "header without a size": no_size,
    "30,000 x 30,000 of one colour": one_colour_bomb,
    "pixels that unfold to more than their header says": bomb_behind_a_small_header,
    "text that unfolds to gigabytes": text_bomb,
    "zip or gzip bomb named as a picture": zip_bomb,
    "format that is not accepted": foreign_format,
    "animation": animation,
    "animation of two thousand million frames": endless_animation,
    "picture that is something else too": polyglot,
    "WebP with lying sizes": lying_webp,
    "JPEG of 50,000 segments": many_segments,
    "JPEG of 20,000 scans": many_scans,
    "swollen colour profile": swollen_profile,
    "EXIF without an end": exif_maze,
    "picture with two beginnings": two_beginnings,
    "PNG of odd chunks": odd_chunks,
    "video sent as a picture": a_video,
}

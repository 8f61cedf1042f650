"""Hostile videos: broken, lying about sizes, lengths and counts, nested, and pointing elsewhere."""

import struct
from collections.abc import Mapping

from hostile_bases import BOMB_SIDE_PX, CLIPS, NUM_FRAMES, Bases, clip
from hostile_draft import Draft, Must, Whim, box, cut, ebml, flip_bits, patch, png_file, riff_chunk
from hostile_pictures import Maker

HUGE = struct.pack(">I", 2**32 - 1)
LARGE = struct.pack(">I", 2**28)
TEN_HOURS_S = 36_000
SAMPLE_ENTRY = box(b"mp4v", bytes(6) + b"\0\1" + bytes(16) + struct.pack(">HH", 320, 256) + bytes(50))
EBML_HEADER = ebml(b"\x1a\x45\xdf\xa3", b"\x42\x82\x88matroska")
SEGMENT, CLUSTER, TRACKS = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75", b"\x16\x54\xae\x6b"
# Where numbers stand behind the name of their box.
HEADER_TIMES, TRACK_HEADER_DURATION, TRACK_HEADER_SIZE, SAMPLE_ENTRY_SIZE = 12, 20, 76, 24


def video(ending: str, data: bytes, must: Must = "either") -> Draft:
    """A file that is sent as a video."""
    return Draft(ending, "video", must, data)


def cut_off(whim: Whim, bases: Bases) -> Draft:
    """Without its index, since that stands at the end."""
    ending = whim.pick(["mp4", "mov"])
    return video(ending, cut(bases.clips[ending], whim.rng), "refused")


def cut_off_elsewhere(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick([ending for ending in CLIPS if ending not in {"mp4", "mov"}])
    return video(ending, cut(bases.clips[ending], whim.rng))


def bits_flipped(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick([*CLIPS])
    return video(ending, flip_bits(bases.clips[ending], whim.rng, whim.rng.choice([1, 20, 500]), start=16))


def mov_bits_flipped(whim: Whim, bases: Bases) -> Draft:
    """Only in the index, where every number counts."""
    data = bases.clips[whim.pick(["mp4", "mov"])]
    at = data.index(b"moov")
    return video("mp4", data[:at] + flip_bits(data[at:], whim.rng, whim.rng.choice([2, 10, 50]), start=4))


def other_bits_flipped(whim: Whim, bases: Bases) -> Draft:
    """Only in the first bytes, where the headers are."""
    ending = whim.pick(["mkv", "avi", "flv", "wmv", "webm", "fragments.mp4", "ts", "mpg"])
    data = bases.clips[ending]
    return video(ending, data[:12] + flip_bits(data[12:600], whim.rng, whim.rng.choice([2, 10, 50])) + data[600:])


def wrong_magic(whim: Whim, bases: Bases) -> Draft:
    ending = whim.pick(["mkv", "avi", "flv", "wmv", "webm"])
    return video(ending, b"\x81" + whim.rng.randbytes(11) + bases.clips[ending][12:], "refused")


def empty_boxes(whim: Whim, _bases: Bases) -> Draft:
    start = box(b"ftyp", b"isom\0\0\2\0")
    length = whim.pick([0, 1, 4, 7, 8])
    return video("mp4", start + box(b"moov", b"", length=length) * 2_000 + whim.rng.randbytes(40), "refused")


def lying_boxes(whim: Whim, bases: Bases) -> Draft:
    """One of the boxes claims another length."""
    name = whim.rng.choice([b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stsz", b"mdat", b"mvhd"])
    length = whim.pick([0, 1, 7, 2**31, 2**32 - 1])
    return video("mp4", patch(bases.clips["faststart.mp4"], name, -8, struct.pack(">I", length)))


def giant_picture(whim: Whim, bases: Bases) -> Draft:
    """Where it is shown, where it is stored, or both."""
    shown, stored = struct.pack(">II", 65_535 << 16, 65_535 << 16), struct.pack(">HH", 65_535, 65_535)
    data = bases.clips["mov"]
    drafts = [
        patch(data, b"tkhd", TRACK_HEADER_SIZE, shown),
        patch(data, b"mp4v", SAMPLE_ENTRY_SIZE, stored),
        patch(patch(data, b"mp4v", SAMPLE_ENTRY_SIZE, stored), b"tkhd", TRACK_HEADER_SIZE, shown),
        patch(bases.clips["mp4"], b"tkhd", TRACK_HEADER_SIZE, shown[:4] + bytes(4)),
        patch(bases.clips["webm"], b"\xb0\x82\x01\x40\xba\x82", 0, b"\xff\xff"),
    ]
    return video("mov", whim.pick(drafts))


def truly_large_picture(whim: Whim, _bases: Bases) -> Draft:
    container, codec, ending = whim.pick(
        [("avi", "mjpeg", "avi"), ("mp4", "libx264", "mp4"), ("matroska", "mpeg4", "mkv")]
    )
    return video(ending, clip(container, codec, {}, size=(3_600 + 16 * whim.turn, 2_600), num_frames=1), "refused")


def bomb_as_frame(whim: Whim, bases: Bases) -> Draft:
    """Frames are PNG files of another size than the track says."""
    png = png_file(BOMB_SIDE_PX, whim.pick([BOMB_SIDE_PX, 2_000, 8_000, 256, 20_000]), bases.bomb, depth=1, colour=0)
    return video("mov", one_track(png, SAMPLE_ENTRY.replace(b"mp4v", b"png "), num_samples=1))


def ten_hours(whim: Whim, bases: Bases) -> Draft:
    """Frames that last so long, or only headers that say so over frames that last a second."""
    data, claim = bases.clips["mov"], struct.pack(">II", 1, TEN_HOURS_S)
    drafts: list[tuple[bytes, Must]] = [
        (one_track(bytes(10**6), SAMPLE_ENTRY, num_samples=TEN_HOURS_S, ticks_per_s=1), "refused"),
        (patch(data, b"mvhd", HEADER_TIMES, claim), "either"),
        (patch(data, b"mdhd", HEADER_TIMES, claim), "either"),
        (patch(data, b"tkhd", TRACK_HEADER_DURATION, HUGE), "either"),
        (patch(patch(data, b"mvhd", HEADER_TIMES, claim), b"mdhd", HEADER_TIMES, claim), "either"),
    ]
    return video("mov", *whim.pick(drafts))


def countless_entries(whim: Whim, bases: Bases) -> Draft:
    """Tables that claim more entries than the file has bytes."""
    data = bases.clips["mp4"]
    name = whim.pick([b"stts", b"stsz", b"stsc", b"stco", b"stss"])
    offset = 8 if name == b"stsz" else 4
    return video("mp4", patch(data, name, offset, whim.rng.choice([HUGE, LARGE, b"\x7f\xff\xff\xff"])))


def countless_frames(whim: Whim, _bases: Bases) -> Draft:
    """A table that needs no room for its entries, since all frames are said to be alike; they last seconds in all."""
    num_samples = whim.pick([2**24, 2**31 - 1, 2**32 - 1, 2**20, 2**28])
    return video("mov", one_track(bytes(1_000), SAMPLE_ENTRY, num_samples=num_samples, ticks_per_s=2**20))


def countless_pieces(whim: Whim, bases: Bases) -> Draft:
    """A fragmented file whose runs claim more frames than there are bytes."""
    return video(
        "mp4",
        patch(
            bases.clips["fragments.mp4"],
            b"trun",
            4,
            whim.pick([HUGE, LARGE, b"\x7f\xff\xff\xff", b"\0\xff\xff\xff", b"\0\0\xff\xff"]),
        ),
    )


def many_tracks(whim: Whim, bases: Bases) -> Draft:
    data = bases.clips["mp4"]
    at, moov = data.index(b"moov") - 4, data.index(b"trak") - 4
    track = data[moov : moov + int.from_bytes(data[moov : moov + 4])]
    return video("mp4", data[:at] + box(b"moov", data[at + 8 : moov] + track * whim.pick([300, 2_000, 1_000, 50, 500])))


def nested_boxes(whim: Whim, _bases: Bases) -> Draft:
    names, depth = whim.pick([(b"moov", b"trak", b"mdia", b"minf"), (b"moov", b"udta", b"meta"), (b"moov",)]), 20_000
    boxes = (struct.pack(">I", 8 * (depth - at)) + names[at % len(names)] for at in range(depth - whim.turn))
    return video("mp4", box(b"ftyp", b"qt  \0\0\2\0") + b"".join(boxes), "refused")


def nested_elements(whim: Whim, _bases: Bases) -> Draft:
    unknown = 2**56 - 1
    name = whim.pick([SEGMENT, CLUSTER, TRACKS])
    return video(
        "mkv",
        EBML_HEADER + ebml(SEGMENT, ebml(name, b"", length=unknown) * (5_000 + whim.turn), length=unknown),
        "refused",
    )


def absurd_elements(whim: Whim, bases: Bases) -> Draft:
    data, length = bases.clips["mkv"], whim.pick([2**56 - 2, 2**40, 2**31])
    drafts: list[tuple[bytes, Must]] = [
        (ebml(b"\x1a\x45\xdf\xa3", data[12:], length=length), "refused"),
        (EBML_HEADER + ebml(SEGMENT, data[60:], length=length), "refused"),
        (EBML_HEADER + ebml(SEGMENT, ebml(TRACKS, b"\xae" * 1_000, length=length)), "refused"),
        (EBML_HEADER + ebml(SEGMENT, ebml(b"\xec", b"", length=length)), "refused"),
    ]
    return video("mkv", *whim.pick(drafts))


def reference_elsewhere(whim: Whim, bases: Bases) -> Draft:
    """A QuickTime file whose frames are said to be in another file."""
    place = b"/etc/passwd" if whim.turn == 0 else whim.place.encode()
    num_folders_up = struct.pack(">HH", *whim.pick([(0, 0), (1, 1)]))
    start = bytes(10) + bytes(28) + bytes(12) + b"\1a" + bytes(62) + bytes(16) + num_folders_up + bytes(16)
    alias = start + struct.pack(">HH", 2, len(place)) + place + bytes(len(place) % 2) + b"\xff\xff\0\0"
    references = [
        box(b"alis", bytes(4) + alias),
        box(b"url ", bytes(4) + place + b"\0"),
        box(b"rsrc", bytes(4) + alias),
    ]
    clip_bytes = bases.clips["mov"]
    return video("mov", one_track(clip_bytes, SAMPLE_ENTRY, num_samples=24, reference=whim.pick(references)))


def redirected_movie(whim: Whim, _bases: Bases) -> Draft:
    """A QuickTime file that names another one to be played in its place."""
    place = whim.place.encode() + b"\0"
    where = box(b"rdrf", bytes(4) + b"url " + struct.pack(">I", len(place)) + place)
    movie = box(b"moov", box(b"rmra", box(b"rmda", where) * 3))
    return video("mov", box(b"ftyp", b"qt  \0\0\2\0") + movie, "refused")


def subtitles_with_a_playlist(whim: Whim, bases: Bases) -> Draft:
    """An AVI with a second stream, of subtitles, which are a playlist."""
    playlist = f"#EXTM3U\n#EXTINF:10,\n{whim.place}\n#EXT-X-ENDLIST\n".encode()
    name = struct.pack("<IHI", 2, 4, 4) + b"a\0b\0"
    body = b"GAB2\0" + name[:2] + name[4:] + b"\4\0" + struct.pack("<I", len(playlist)) + playlist
    stream = riff_chunk(b"strh", b"txts" + bytes(16) + struct.pack("<II", 1, 1) + bytes(28)) + riff_chunk(b"strf", b"")
    stream, data = riff_chunk(b"LIST", b"strl" + stream), bases.clips["avi"]
    (header_bytes,) = struct.unpack("<I", data[16:20])
    header_end, at = 20 + header_bytes, data.index(b"movi") + 4
    header = data[:16] + struct.pack("<I", header_bytes + len(stream)) + data[20:header_end] + stream
    return video("avi", header + data[header_end:at] + riff_chunk(b"01tx", body) + data[at:])


def two_videos(whim: Whim, bases: Bases) -> Draft:
    """One behind the other, or one within the other's empty space."""
    first, second = whim.pick([("mkv", "mp4"), ("avi", "mkv"), ("ts", "mp4"), ("flv", "avi"), ("mpg", "wmv")])
    return video(first, bases.clips[first] + bases.clips[second])


def transport_noise(whim: Whim, _bases: Bases) -> Draft:
    """Packets that are marked as such and hold nothing but noise."""
    packets = b"".join(b"G" + whim.rng.randbytes(187) for _ in range(2_000))
    return video("ts", packets, "refused")


def swollen_titles(whim: Whim, bases: Bases) -> Draft:
    title = box(b"udta", box(b"\xa9nam", struct.pack(">HH", 65_000, 0) + whim.rng.randbytes(65_000)) * 20)
    data = bases.clips["mp4"]
    at = data.index(b"moov") - 4
    return video("mp4", data[:at] + box(b"moov", data[at + 8 :] + title))


def one_track(media: bytes, entry: bytes, *, num_samples: int, ticks_per_s: int = 24, reference: bytes = b"") -> bytes:
    """A QuickTime file put together by hand; all its samples are alike and last one tick."""
    start = box(b"ftyp", b"qt  \0\0\2\0") + box(b"mdat", media)
    tables = [
        box(b"stsd", struct.pack(">II", 0, 1) + entry),
        box(b"stts", struct.pack(">IIII", 0, 1, num_samples, 1)),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, num_samples, 1)),
        box(b"stsz", struct.pack(">III", 0, max(1, len(media) // min(num_samples, NUM_FRAMES)), num_samples)),
        box(b"stco", struct.pack(">III", 0, 1, len(start) - len(media))),
    ]
    data = box(b"dinf", box(b"dref", struct.pack(">II", 0, 1) + (reference or box(b"url ", b"\0\0\0\1"))))
    information = box(b"minf", box(b"vmhd", b"\0\0\0\1" + bytes(8)) + data + box(b"stbl", b"".join(tables)))
    handler = box(b"hdlr", bytes(8) + b"vide" + bytes(13))
    header = box(b"mdhd", struct.pack(">IIIIIHH", 0, 0, 0, ticks_per_s, num_samples, 0, 0))
    shown = bytes(52) + struct.pack(">II", 320 << 16, 256 << 16)
    track = box(b"tkhd", b"\0\0\0\3" + struct.pack(">IIIII", 0, 0, 1, 0, num_samples) + shown)
    movie = box(b"mvhd", struct.pack(">IIIII", 0, 0, 0, ticks_per_s, num_samples) + bytes(80))
    return start + box(b"moov", movie + box(b"trak", track + box(b"mdia", header + handler + information)))


KINDS: Mapping[str, Maker] = {
    "MP4 cut off before its index": cut_off,
    "video cut off": cut_off_elsewhere,
    "video with flipped bits": bits_flipped,
    "index with flipped bits": mov_bits_flipped,
    "video with flipped bits in its header": other_bits_flipped,
    "video with a wrong signature": wrong_magic,
    "boxes of no length": empty_boxes,
    "boxes with lying lengths": lying_boxes,
    "track that claims a giant picture": giant_picture,
    "picture that is too large": truly_large_picture,
    "bomb as a frame": bomb_as_frame,
    "header of ten hours": ten_hours,
    "tables with countless entries": countless_entries,
    "countless frames that are alike": countless_frames,
    "fragments with countless frames": countless_pieces,
    "thousands of tracks": many_tracks,
    "boxes nested 20,000 deep": nested_boxes,
    "elements nested without an end": nested_elements,
    "elements with absurd lengths": absurd_elements,
    "frames said to be in another file": reference_elsewhere,
    "movie that names another one": redirected_movie,
    "subtitles with a playlist": subtitles_with_a_playlist,
    "two videos in one file": two_videos,
    "transport stream of noise": transport_noise,
    "swollen titles": swollen_titles,
}

"""First bytes of a file → the one demuxer that may open it. Names and endings are not believed.

Only containers that carry their pictures themselves are on the list: no playlists, no lists of files, no descriptions
of streams, since what those point at would be opened in the name of whoever sent them.
"""

from pipelines.video.info import VideoError

NUM_BYTES = 1_024
TS_SYNC = 0x47
TS_PACKETS = ((0, 188), (4, 192), (0, 204))  # offset and size: plain, with time codes (Blu-ray), with error correction
MOV_BOXES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"}
PICTURE_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"}
STARTS = (
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpegvideo"),
)
OTHERS = (
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PK\x05\x06", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"BM", "a BMP picture"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ID3", "a sound file"),
    (b"fLaC", "a sound file"),
)
PLAYLISTS = (b"#extm3u", b"ffconcat", b"[playlist]", b"[reference]", b"<asx", b"<mpd", b"<smil", b"v=0", b"rtsptext")


def sniff(start: bytes) -> str:
    """The demuxer's name; `start` is the first NUM_BYTES of the file, or all of it."""
    if not start:
        raise VideoError("not_a_video", "The file is empty: there is no video in it.")
    for magic, demuxer in STARTS:
        if start.startswith(magic):
            return demuxer
    if start[4:8] in MOV_BOXES and start[8:12] not in PICTURE_BRANDS:
        return "mov"
    if start[:4] == b"RIFF" and start[8:12] == b"AVI ":
        return "avi"
    if any(_is_transport_stream(start, *packets) for packets in TS_PACKETS):
        return "mpegts"
    raise VideoError("not_a_video", f"The file is not a video: {_likeness(start)}.")


def _is_transport_stream(start: bytes, offset: int, size: int) -> bool:
    syncs = start[offset::size][:4]
    return len(syncs) == 4 and all(byte == TS_SYNC for byte in syncs)


def _likeness(start: bytes) -> str:
    """What it looks like instead, as the end of a sentence."""
    for magic, name in OTHERS:
        if start.startswith(magic):
            return f"it starts like {name}"
    if start[4:8] in MOV_BOXES or start[8:12] == b"WEBP":
        return "it starts like a picture"
    if start[8:12] == b"WAVE":
        return "it starts like a sound file"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if any(text.startswith(word) or word in text[:300] and text.startswith(b"<") for word in PLAYLISTS):
        return "it is a playlist, which only points at videos, and what it points at is never opened"
    if not any(byte < 9 for byte in start):
        return "it holds text"
    return "it starts like none of the formats known here"

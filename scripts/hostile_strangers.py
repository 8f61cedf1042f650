"""Hostile files that are neither picture nor video, whatever they are called: playlists, documents, nothing at all."""

from collections.abc import Mapping

from hostile_bases import Bases
from hostile_draft import Draft, Purpose, Whim, box, zipped
from hostile_pictures import Maker

XML = '<?xml version="1.0"?>\n'


def refused(whim: Whim, data: bytes | str) -> Draft:
    """Sent as a video one time, as an image the next."""
    purpose, endings = whim.pick([("video", ["mp4", "mkv", "mov"]), ("image", ["jpg", "png", "webp"])])
    return _named(purpose, whim.pick(endings), data)


def refused_video(whim: Whim, data: bytes | str) -> Draft:
    return _named("video", whim.pick(["mp4", "mov", "mkv", "avi", "ts"]), data)


def text(whim: Whim, _bases: Bases) -> Draft:
    return refused(
        whim, whim.pick(["Dear all,\nthis is no video.\n" * 50, "{}", "\ufeffÄÖÜ" * 400, "a" * 200_000, "[1, 2]"])
    )


def nothing(whim: Whim, _bases: Bases) -> Draft:
    return refused(whim, b"")


def zeros(whim: Whim, _bases: Bases) -> Draft:
    return refused(whim, bytes(whim.pick([1, 7, 1_000, 300_000, 64])))


def noise(whim: Whim, _bases: Bases) -> Draft:
    return refused(whim, b"\x80" + whim.rng.randbytes(whim.pick([9, 5_000, 300_000])))


def hls_playlist(whim: Whim, _bases: Bases) -> Draft:
    kinds = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{whim.place}\n#EXT-X-ENDLIST\n",
        f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{whim.place}\n",
        f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{whim.place}"\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n',
        f'#EXTM3U\n#EXT-X-MAP:URI="{whim.place}"\n#EXTINF:1,\nconcat:{whim.place}|a.ts\n#EXT-X-ENDLIST\n',
    ]
    return refused_video(whim, whim.pick(kinds))


def list_of_files(whim: Whim, _bases: Bases) -> Draft:
    kinds = [
        f"ffconcat version 1.0\nfile '{whim.place}'\n",
        f"[playlist]\nFile1={whim.place}\nNumberOfEntries=1\n",
        f"{XML}<MPD><Period><AdaptationSet><BaseURL>{whim.place}</BaseURL></AdaptationSet></Period></MPD>",
        f'<asx version="3.0"><entry><ref href="{whim.place}"/></entry></asx>',
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {whim.port} RTP/AVP 96\n",
    ]
    return refused_video(whim, whim.pick(kinds))


def playlist_in_disguise(whim: Whim, bases: Bases) -> Draft:
    """A playlist behind the first bytes of a video."""
    playlist = f"#EXTM3U\n#EXTINF:10,\n{whim.place}\n#EXT-X-ENDLIST\n".encode()
    starts = [
        b"GAB2\0\x02\0" + playlist,
        box(b"ftyp", b"isom\0\0\2\0") + playlist * 50,
        b"RIFF\xff\xff\0\0AVI LIST\x14\x01\0\0GAB2\0" + playlist * 50,
        b"G" + bytes(187) + playlist * 50,
        b"\x1aE\xdf\xa3" + playlist * 50,
    ]
    return refused_video(whim, whim.pick(starts))


def svg(whim: Whim, _bases: Bases) -> Draft:
    kinds = [
        f'{XML}<!DOCTYPE svg [<!ENTITY x SYSTEM "{whim.place}">]>\n<svg><text>&x;</text></svg>',
        f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{whim.place}"/></svg>',
        "<svg><script>alert(1)</script></svg>",
        f"{XML}<!DOCTYPE l [<!ENTITY a 'lol'>" + "".join(_laughs()) + "]>\n<svg>&a9;</svg>",
    ]
    return refused(whim, whim.pick(kinds))


def document(whim: Whim, _bases: Bases) -> Draft:
    pdf = f"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/URI/URI({whim.place})>>>>endobj\n%%EOF\n"
    postscript = f"%!PS\n({whim.place}) (r) file\n"
    program = b"\x7fELF\x02\x01\x01" + whim.rng.randbytes(2_000)
    return refused(
        whim, whim.pick([pdf, postscript, program, "#!/bin/sh\ncat /etc/passwd\n", "<html><body>404</body>"])
    )


def archive(whim: Whim, bases: Bases) -> Draft:
    """A video, in a video, in an archive."""
    data = zipped("../../clip.mkv", bases.clips["mkv"] + bases.clips["mp4"])
    return refused_video(
        whim, whim.pick([data, b"7z\xbc\xaf\x27\x1c" + data, b"Rar!\x1a\x07\0" + data, b"\x1f\x8b\x08" + data])
    )


def a_picture(whim: Whim, bases: Bases) -> Draft:
    return refused_video(whim, whim.rng.choice([*bases.pictures.values(), *bases.foreign_pictures.values()]))


def picture_brand(whim: Whim, bases: Bases) -> Draft:
    """An MP4 that calls itself a HEIF picture."""
    clip = bases.clips["mp4"]
    brand = whim.pick([b"heic", b"mif1", b"avif", b"heix", b"avis"])
    purpose, ending = whim.pick([("image", "jpg"), ("video", "mp4")])
    return _named(purpose, ending, clip[:8] + brand + clip[12:])


def video_behind_a_picture(whim: Whim, bases: Bases) -> Draft:
    clip = bases.clips[whim.pick([*bases.clips])]
    return _named("video", "mp4", bases.pictures[whim.pick(["jpg", "png", "webp"])] + clip)


def _named(purpose: Purpose, ending: str, data: bytes | str) -> Draft:
    return Draft(ending, purpose, "refused", data.encode() if isinstance(data, str) else data)


def _laughs() -> list[str]:
    """Each entity is ten of the one before."""
    return [f"<!ENTITY a{n} '{f'&a{n - 1 if n > 1 else str()};' * 10}'>" for n in range(1, 10)]


KINDS: Mapping[str, Maker] = {
    "text": text,
    "empty file": nothing,
    "zeros": zeros,
    "noise": noise,
    "HLS playlist": hls_playlist,
    "list of other files": list_of_files,
    "playlist behind a video's first bytes": playlist_in_disguise,
    "SVG": svg,
    "document or program": document,
    "video in an archive": archive,
    "picture sent as a video": a_picture,
    "video with a picture's brand": picture_brand,
    "video behind a picture": video_behind_a_picture,
}

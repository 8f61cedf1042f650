"""A file is what its first bytes say; what is no video is told what it is instead."""

import pytest

from pipelines.video.info import VideoError
from pipelines.video.sniffing import NUM_BYTES, sniff
from tests.pipelines.video.conftest import Odd

HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"


@pytest.mark.parametrize(
    ("name", "demuxer"),
    [("plain", "mov"), ("rotated-270", "mov"), ("vp9", "matroska"), ("mjpeg", "avi"), ("mpeg2-ts", "mpegts")],
)
def test_containers_are_known_by_their_bytes(odd: Odd, name: str, demuxer: str) -> None:
    assert sniff(odd(name).path.read_bytes()[:NUM_BYTES]) == demuxer


@pytest.mark.parametrize("offset_and_size", [(0, 188), (4, 192), (0, 204)])
def test_transport_streams_are_known_with_packets_of_any_size(offset_and_size: tuple[int, int]) -> None:
    offset, size = offset_and_size
    start = bytearray(NUM_BYTES)
    start[offset::size] = b"\x47" * len(start[offset::size])
    assert sniff(bytes(start)) == "mpegts"


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"", "empty"),
        (b"Dear Sir or Madam,\n", "text"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://example.com/a.ts\n", "playlist"),
        (b"\xef\xbb\xbf  #EXTM3U\nfile:///etc/passwd\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
        (b'<?xml version="1.0"?><MPD type="static">', "playlist"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\n", "playlist"),
        (b'<svg xmlns="http://www.w3.org/2000/svg">', "text"),
        (b"PK\x03\x04\x14\x00\x00\x00", "ZIP"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "PNG"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "picture"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "sound"),
        (HEIC, "picture"),
        (b"\x00" * 64, "none of the formats"),
    ],
)
def test_what_is_no_video_is_told_what_it_is_instead(start: bytes, said: str) -> None:
    with pytest.raises(VideoError, match=said) as caught:
        sniff(start)
    assert caught.value.code == "not_a_video"

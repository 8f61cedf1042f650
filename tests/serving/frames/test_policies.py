"""What of a video may be seen: each policy over stills and contact sheet; the stand-in classifier finds one scene."""

import hashlib

import pytest

from serving.errors import Unavailable
from tests.frames import SIZE, share_marked, video
from tests.serving.frames.conftest import Bench


async def test_a_blocked_still_is_rejected_and_its_pixels_are_nowhere(bench: Bench) -> None:
    result = await bench.extract(bench.order(), "block")
    assert {frame.scene for frame in result.frames} == {0, 2}
    assert all(frame.is_nsfw is False and frame.nsfw is not None for frame in result.frames)
    assert "nsfw" in {frame.reason for frame in result.rejected}
    assert max(share_marked(bench.pixels(key)) for key in bench.stored) < 0.001


async def test_a_blurred_still_is_kept_and_cannot_be_made_out(bench: Bench) -> None:
    result = await bench.extract(bench.order(), "blur")
    flagged = [frame for frame in result.frames if frame.is_nsfw]
    assert {frame.scene for frame in flagged} == {1}
    assert all(frame.nsfw is not None and frame.nsfw > 0.3 for frame in flagged)
    assert max(share_marked(bench.pixels(key)) for key in bench.stored) < 0.001
    for frame in flagged:
        assert frame.sha256 == hashlib.sha256(bench.blobs.get(frame.key)).hexdigest()
        assert bench.pixels(frame.key).shape[1::-1] == SIZE


async def test_a_flagged_still_is_kept_as_it_is(bench: Bench) -> None:
    result = await bench.extract(bench.order(), "flag")
    flagged = [frame for frame in result.frames if frame.is_nsfw]
    assert {frame.scene for frame in flagged} == {1}
    assert all(share_marked(bench.pixels(frame.key)) > 0.3 for frame in flagged)
    assert all(frame.is_nsfw is not None for frame in result.frames)


async def test_nobody_looks_where_nobody_is_to_look(bench: Bench) -> None:
    bench.moderator.is_lost = True
    result = await bench.extract(bench.order(), "off")
    assert all(frame.nsfw is None and frame.is_nsfw is None for frame in result.frames)
    assert bench.moderator.looked_at == []


async def test_no_more_than_what_is_kept_or_shown_is_looked_at(bench: Bench) -> None:
    result = await bench.extract(bench.order(data=video(6.0), max_frames=2), "block")
    num_seen = len(result.frames) + len(result.rejected)
    assert len(bench.moderator.looked_at) < num_seen


async def test_without_the_moderator_nothing_passes(bench: Bench) -> None:
    bench.moderator.is_lost = True
    with pytest.raises(Unavailable) as caught:
        await bench.extract(bench.order(), "block")
    assert caught.value.code == "moderator_unavailable"
    assert bench.stored == []
    bench.assert_clean()

"""Names are shown and nothing else; types are known or refused, and mean what they say."""

import pytest

from serving.uploads.content import CONTAINERS, FAMILIES, MAX_NAME_CHARS, is_same_kind, plain_type, shown_name, types_of
from serving.uploads.upload import MAX_PARTS, PartPlan, part_size


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("holiday.mp4", "holiday.mp4"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("C:\\temp\\a.mp4", "C:_temp_a.mp4"),
        ("..", "file"),
        ("", "file"),
        (" . ", "file"),
        ("a\x00b\r\nc.mp4", "abc.mp4"),
        ("\u202egpj.exe", "gpj.exe"),
        ("caf\u0065\u0301.mp4", "caf\u00e9.mp4"),
        ("half \ud83d.mp4", "half ?.mp4"),
        ("\U0001f600.mp4", "\U0001f600.mp4"),
    ],
)
def test_a_name_is_made_fit_to_be_shown(given: str, shown: str) -> None:
    assert shown_name(given) == shown


def test_a_long_name_is_cut_and_keeps_its_ending() -> None:
    name = shown_name("x" * 4_000 + ".mp4")
    assert (len(name), name[-5:]) == (MAX_NAME_CHARS, "x.mp4")
    assert len(shown_name("." * 100 + "y" * 4_000)) == MAX_NAME_CHARS


def test_types_are_compared_without_parameters_and_case() -> None:
    assert plain_type(" Video/MP4; codecs=avc1") == "video/mp4"


@pytest.mark.parametrize(
    ("claimed", "found", "is_same"),
    [
        ("video/mp4", "video/mp4", True),
        ("video/quicktime", "video/mp4", True),
        ("video/webm", "video/x-matroska", True),
        ("video/webm", "video/mp4", False),
        ("video/x-msvideo", "video/mp4", False),
    ],
)
def test_a_claimed_type_must_be_one_that_such_a_file_may_have(claimed: str, found: str, is_same: bool) -> None:
    assert is_same_kind("video", claimed, found) is is_same


def test_a_picture_is_what_it_is_called() -> None:
    assert is_same_kind("image", "image/jpg", "image/jpeg")
    assert not is_same_kind("image", "image/png", "image/jpeg")


def test_whatever_a_demuxer_reads_may_be_announced() -> None:
    assert set(CONTAINERS.values()) <= set(types_of("video"))
    names = [name for family in FAMILIES["video"] + FAMILIES["image"] for name in family]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("num_bytes", [1, 5_242_880, 5_242_881, 16_777_216_000, 16_777_216_001, 5 * 10**12])
def test_a_file_is_cut_into_parts_that_add_up_and_are_few(num_bytes: int) -> None:
    plan = PartPlan("parts", part_size(num_bytes, 16_777_216))
    sizes = plan.sizes(num_bytes)
    assert sum(sizes) == num_bytes
    assert len(sizes) <= MAX_PARTS
    assert set(sizes[:-1]) <= {plan.part_bytes}
    assert plan.part_bytes >= 16_777_216

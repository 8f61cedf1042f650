"""What a picture says about itself can be read back, by us and by A1111's readers."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipelines.media import Provenance, encode_image, parameters_line, read_provenance
from pipelines.request import GenerationRequest, OutputFormat

REQUEST = GenerationRequest(
    model_id="emoji-3d",
    prompt="a red apple",
    negative_prompt="blurry, dark",
    width_px=128,
    height_px=64,
    num_images=1,
    seed=1,
    num_inference_steps=20,
    guidance_scale=4.5,
)
FORMATS: tuple[OutputFormat, ...] = ("png", "jpeg", "webp")
TRICKY = [
    "plain",
    'Äpfel & <Birnen> "quoted" \\ back ]]> &amp;',
    "two\nlines\twith tab",
    "emoji 🍎👩‍🚀 and 漢字 and עברית",
    "Steps: 99, Sampler: fake, Seed: 2",
    "x" * 4_000,
    "🍎" * 4_000,
]
# What a reader needs to know of A1111's format, written from its description and not from our writer.
PAIR = re.compile(r'\s*([\w][\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def provenance(**changes: object) -> Provenance:
    return Provenance(
        request=replace(REQUEST, **changes), seed=5, sampler="Euler", weights_sha256="0123456789abcdef" * 4, created=17
    )


def picture() -> Image.Image:
    ramp = np.linspace(0, 255, 64 * 128 * 3).reshape(64, 128, 3).astype("uint8")
    return Image.fromarray(ramp)


def read_a1111(text: str) -> tuple[str, str, dict[str, str]]:
    *lines, last = text.split("\n")
    prompt, negative, is_negative = [], [], False
    for line in lines:
        if line.startswith("Negative prompt: "):
            is_negative, line = True, line.removeprefix("Negative prompt: ")
        (negative if is_negative else prompt).append(line)
    return "\n".join(prompt), "\n".join(negative), dict(PAIR.findall(last))


def test_the_line_is_exactly_what_a1111_writes() -> None:
    text = parameters_line(provenance())
    assert text == (
        "a red apple\nNegative prompt: blurry, dark\n"
        "Steps: 20, Sampler: Euler, CFG scale: 4.5, Seed: 5, Size: 128x64, Model hash: 0123456789, "
        "Model: emoji-3d, Version: darkroom 0.1.0"
    )


def test_an_a1111_reader_finds_every_value() -> None:
    prompt, negative, pairs = read_a1111(parameters_line(provenance(prompt="a, b: c\nd", guidance_scale=7.0)))
    assert (prompt, negative) == ("a, b: c\nd", "blurry, dark")
    assert pairs == {
        "Steps": "20",
        "Sampler": "Euler",
        "CFG scale": "7",
        "Seed": "5",
        "Size": "128x64",
        "Model hash": "0123456789",
        "Model": "emoji-3d",
        "Version": "darkroom 0.1.0",
    }


def test_values_that_would_end_the_pair_are_quoted_and_no_empty_negative_is_written() -> None:
    text = parameters_line(replace(provenance(negative_prompt=""), sampler="Euler, fast: yes"))
    assert 'Sampler: "Euler, fast: yes", CFG' in text
    assert read_a1111(text)[2]["Sampler"] == '"Euler, fast: yes"'
    assert "Negative prompt" not in text


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("prompt", TRICKY, ids=range(len(TRICKY)))
def test_every_format_gives_back_what_was_written(output_format: OutputFormat, prompt: str) -> None:
    made = provenance(prompt=prompt, output_format=output_format)
    found = read_provenance(encode_image(picture(), made))
    assert found.parameters == parameters_line(made)
    assert found.darkroom["request"]["prompt"] == prompt
    assert found.darkroom["seed"] == 5
    assert found.darkroom["created"] == 17
    assert found.darkroom["weights_sha256"] == made.weights_sha256
    assert set(found.darkroom["versions"]) == {"darkroom", "torch", "diffusers", "transformers"}


@pytest.mark.parametrize("output_format", FORMATS)
def test_no_prompt_is_too_long_for_a_file(output_format: OutputFormat) -> None:
    made = provenance(prompt="🍎" * 40_000, negative_prompt="<" * 40_000, output_format=output_format)
    found = read_provenance(encode_image(picture(), made))
    assert found.parameters.endswith("Version: darkroom 0.1.0")
    if output_format == "jpeg":
        assert found.darkroom["is_cut"] is True
        assert found.darkroom["request"]["prompt"] == "🍎" * 2_000
    else:
        assert found.darkroom["request"]["prompt"] == made.request.prompt


@settings(max_examples=60, deadline=None)
@given(prompt=st.text(max_size=200), negative=st.text(max_size=100), output_format=st.sampled_from(FORMATS))
def test_any_text_survives_the_round_trip(prompt: str, negative: str, output_format: OutputFormat) -> None:
    made = provenance(prompt=prompt, negative_prompt=negative, output_format=output_format)
    found = read_provenance(encode_image(picture(), made))
    assert found.darkroom["request"]["prompt"] == prompt
    assert found.darkroom["request"]["negative_prompt"] == negative
    assert found.parameters == parameters_line(made)


def test_a_lone_surrogate_does_not_stop_a_picture() -> None:
    for output_format in FORMATS:
        found = read_provenance(encode_image(picture(), provenance(prompt="a\ud83d", output_format=output_format)))
        assert found.parameters.startswith("a?\n")


def test_latin_1_stays_a_plain_text_chunk_and_other_text_is_marked_international() -> None:
    assert b"tEXtparameters\0a red apple" in encode_image(picture(), provenance())
    assert b"iTXtparameters\0" in encode_image(picture(), provenance(prompt="漢字"))


def test_the_user_comment_is_big_endian_unicode_as_piexif_writes_it() -> None:
    for output_format in ("jpeg", "webp"):
        data = encode_image(picture(), provenance(prompt="漢字 apple", output_format=output_format))
        assert b"UNICODE\0" + "漢字 apple".encode("utf-16-be") in data
        assert b"Exif\0\0MM" in data or b"MM\0*" in data


def test_png_keeps_every_pixel_and_quality_trades_bytes() -> None:
    with Image.open(io.BytesIO(encode_image(picture(), provenance()))) as image:
        assert (np.asarray(image) == np.asarray(picture())).all()
    for output_format in ("jpeg", "webp"):
        sizes = [
            len(encode_image(picture(), provenance(output_format=output_format, output_compression=quality)))
            for quality in (0, 50, 100)
        ]
        assert sizes == sorted(set(sizes))


def test_a_picture_without_provenance_says_so() -> None:
    for name in ("PNG", "JPEG", "WEBP"):
        out = io.BytesIO()
        picture().save(out, name)
        found = read_provenance(out.getvalue())
        assert (found.parameters, found.darkroom) == (None, None)

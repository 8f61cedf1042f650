"""True picture files, made at once: what the fake backend answers with."""

import hashlib

from PIL import Image

from pipelines.media import Provenance, encode_image
from pipelines.request import CONTENT_TYPES, GeneratedImage, GenerationRequest, Preview

FAKE_WEIGHTS_SHA256 = hashlib.sha256(b"fake weights").hexdigest()
MARKER, MARKER_WORD = (255, 0, 255), "magenta"  # what the stand-in moderator flags (tests/moderators.py)


def flagged_picture(width_px: int, height_px: int) -> Image.Image:
    """Nearly all of it in the marker colour, with a small black square that blurring wipes out."""
    image = Image.new("RGB", (width_px, height_px), MARKER)
    image.paste("black", (0, 0, width_px // 16, height_px // 16))
    return image


def previews(request: GenerationRequest, step: int) -> list[Preview]:
    """One small preview for every step, and every second one a partial image, as long as any are wanted."""
    index, step = divmod(step - 1, request.num_inference_steps)
    step += 1
    data, content_type = picture(request, index).data, CONTENT_TYPES[request.output_format]
    told = [Preview(index, step, data, content_type)]
    if step % 2 == 1 and step // 2 < request.num_partial_images:
        told.append(Preview(index, step, data, content_type, partial_index=step // 2))
    return told


def picture(request: GenerationRequest, index: int) -> GeneratedImage:
    """A picture file of one colour, the same for the same seed; one that is flagged where the prompt asks."""
    seed = request.image_seed(index)
    colour = hashlib.sha256(str(seed).encode()).digest()
    image = Image.new("RGB", (request.width_px, request.height_px), (colour[0], colour[1], colour[2]))
    if MARKER_WORD in request.prompt:
        image = flagged_picture(request.width_px, request.height_px)
    data = encode_image(image, Provenance(request, seed, "Fake", FAKE_WEIGHTS_SHA256, created=1_800_000_000))
    return GeneratedImage(
        data=data,
        content_type=CONTENT_TYPES[request.output_format],
        width_px=image.width,
        height_px=image.height,
        seed=seed,
        sha256=hashlib.sha256(data).hexdigest(),
    )

"""Pictures as files with their origin inside: PNG text chunks, or EXIF and XMP. Knows no model and no torch."""

import io
import json
import struct
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines.request import GenerationRequest, LoraChoice

PACKAGES = ("darkroom", "torch", "diffusers", "transformers")
XMP_NAMESPACE = "https://darkroom.invalid/ns/1.0/"
# A JPEG segment holds 65,535 bytes with its length and signature; prompts that do not fit are cut in the record.
MAX_JPEG_RECORD_BYTES = 64_000
CUT_PROMPT_CHARS = 2_000
_EXIF_POINTER, _USER_COMMENT = 0x8769, 0x9286
_UNICODE = b"UNICODE\0"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one picture comes from."""

    request: GenerationRequest
    seed: int  # of this picture
    sampler: str  # as A1111 calls it
    weights_sha256: str
    created: int  # Unix seconds


@dataclass(frozen=True, slots=True)
class ReadProvenance:
    """What a file says about itself; None where it says nothing."""

    parameters: str | None
    darkroom: dict[str, Any] | None


def encode_image(image: Image.Image, provenance: Provenance) -> bytes:
    """The picture in the format that its request asks for, with `provenance` inside."""
    request = provenance.request
    line = parameters_line(provenance)
    record = darkroom_record(provenance)
    out = io.BytesIO()
    if request.output_format == "png":
        chunks = PngInfo()
        chunks.add_text("parameters", line)  # tEXt; iTXt by itself where Latin-1 does not reach
        chunks.add_text("darkroom", record)
        image.save(out, "PNG", pnginfo=chunks)
    elif request.output_format == "jpeg":
        line, record = _fit_jpeg(provenance, line, record)
        quality = max(1, request.output_compression)
        # Full colour resolution for those who ask for quality; 90 is where halving it begins to show.
        subsampling = "4:4:4" if quality >= 90 else "4:2:0"
        image.save(out, "JPEG", quality=quality, subsampling=subsampling, exif=_exif(line), xmp=_xmp(record))
    else:
        image.save(out, "WEBP", quality=request.output_compression, exif=_exif(line), xmp=_xmp(record))
    return out.getvalue()


def read_provenance(data: bytes) -> ReadProvenance:
    """The inverse of encode_image(), for any of its formats."""
    with Image.open(io.BytesIO(data)) as image:
        if image.format == "PNG":
            image.load()  # chunks may follow the pixels
            line, record = image.info.get("parameters"), image.info.get("darkroom")
        else:
            comment = image.getexif().get_ifd(_EXIF_POINTER).get(_USER_COMMENT)
            line = _read_comment(comment)
            record = _read_xmp(image.info.get("xmp"))
    return ReadProvenance(line, json.loads(record) if record else None)


def parameters_line(provenance: Provenance) -> str:
    """Prompt, negative prompt and settings as A1111 writes them, so that its readers and many sites understand."""
    request = provenance.request
    settings: dict[str, str] = {
        "Steps": str(request.num_inference_steps),
        "Sampler": provenance.sampler,
        "CFG scale": f"{request.guidance_scale:g}",
        "Seed": str(provenance.seed),
        "Size": f"{request.width_px}x{request.height_px}",
        "Model hash": provenance.weights_sha256[:10],
        "Model": request.model_id,
    }
    if request.image is not None:
        settings["Denoising strength"] = f"{request.strength:g}"
    if request.loras:
        settings["Lora hashes"] = ", ".join(f"{choice.name}: {_short_hash(choice)}" for choice in request.loras)
    settings["Version"] = f"darkroom {_versions()['darkroom']}"
    negative = f"\nNegative prompt: {request.negative_prompt}" if request.negative_prompt else ""
    line = ", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items())
    return _encodable(f"{request.prompt}{negative}\n{line}".strip())


def darkroom_record(provenance: Provenance) -> str:
    """Everything that is needed to make the picture again, as ASCII JSON."""
    request = asdict(provenance.request)
    # What a file is, not where it lies: pictures are handed on, and keys name tenants.
    for holder, name in ((request, "image"), (request, "mask"), *((lora, "file") for lora in request["loras"])):
        if holder[name] is not None:
            holder[name] = {"sha256": holder[name]["sha256"]}
    return json.dumps(
        {
            "request": request,
            "model": provenance.request.model_id,
            "weights_sha256": provenance.weights_sha256,
            "seed": provenance.seed,
            "versions": _versions(),
            "created": provenance.created,
        }
    )


def _short_hash(choice: LoraChoice) -> str:
    return "unknown" if choice.file is None else choice.file.sha256[:12]


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _quoted(value: str) -> str:
    # A1111's own rule: JSON quotes where the value would end the pair.
    return json.dumps(value, ensure_ascii=False) if any(c in value for c in ",\n:") else value


def _encodable(text: str) -> str:
    """Lone surrogates, which no encoding can carry, become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _fit_jpeg(provenance: Provenance, line: str, record: str) -> tuple[str, str]:
    if len(_exif(line)) <= MAX_JPEG_RECORD_BYTES and len(_xmp(record)) <= MAX_JPEG_RECORD_BYTES:
        return line, record
    tree = json.loads(record)
    for key in ("prompt", "negative_prompt"):
        tree["request"][key] = tree["request"][key][:CUT_PROMPT_CHARS]
    settings = line.rpartition("\n")[2]
    return f"{line[:CUT_PROMPT_CHARS]}\n{settings}", json.dumps(tree | {"is_cut": True})


def _exif(line: str) -> bytes:
    """One UserComment. Big-endian throughout: some readers go by the file's byte order, A1111's is always big."""
    comment = _UNICODE + line.encode("utf-16-be")
    ifd0_at = 8
    exif_at = ifd0_at + 2 + 12 + 4
    comment_at = exif_at + 2 + 12 + 4
    header = struct.pack(">2sHI", b"MM", 42, ifd0_at)
    ifd0 = struct.pack(">HHHIII", 1, _EXIF_POINTER, 4, 1, exif_at, 0)
    exif_ifd = struct.pack(">HHHIII", 1, _USER_COMMENT, 7, len(comment), comment_at, 0)
    return b"Exif\0\0" + header + ifd0 + exif_ifd + comment


def _read_comment(comment: object) -> str | None:
    if not isinstance(comment, bytes) or not comment.startswith(_UNICODE):
        return None
    return comment.removeprefix(_UNICODE).decode("utf-16-be")


def _xmp(record: str) -> bytes:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" xmlns:darkroom="{XMP_NAMESPACE}">'
        f"<darkroom:record>{escape(record)}</darkroom:record>"
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _read_xmp(packet: object) -> str | None:
    if not isinstance(packet, bytes):
        return None
    return ElementTree.fromstring(packet).findtext(f".//{{{XMP_NAMESPACE}}}record")

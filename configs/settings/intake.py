"""What comes in and what is looked at: uploads, stills from videos, moderation."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from configs.settings.blocks import Frozen

Action = Literal["block", "blur", "flag", "off"]


class UploadSettings(Frozen):
    """Limits of what clients send. A tenant may have tighter or wider ones of its own."""

    max_image_bytes: int = Field(10_000_000, gt=0)
    min_image_px: int = Field(256, gt=0, description="Of either side.")
    max_image_px: int = Field(4_096, gt=0, description="Of either side.")
    thumbnail_px: int = Field(512, gt=0, description="Longer side of an image's thumbnail.")
    max_video_bytes: int = Field(4_000_000_000, gt=0)
    max_video_s: float = Field(3_600.0, gt=0, description="Duration.")
    max_video_px: int = Field(8_912_896, gt=0, description="Width times height; 4096 x 2176.")
    max_stored_bytes: int = Field(200_000_000_000, gt=0, description="All uploads of one tenant together.")
    max_pending: int = Field(1_000, ge=1, description="Uploads of one tenant that were announced and not completed.")
    multipart_above_bytes: int = Field(
        64_000_000, gt=0, description="Larger files are sent in parts, each of which may be sent again."
    )
    part_bytes: int = Field(16_777_216, ge=5_242_880, description="Size of a part; grows where S3 allows too few.")
    keep_pending_s: float = Field(86_400.0, gt=0, description="What was not completed by then is forgotten.")
    check_timeout_s: float = Field(60.0, gt=0, description="For looking at one file, its transfer not counted.")
    check_memory_bytes: int = Field(2_000_000_000, gt=0, description="Memory of the process that looks at it.")
    max_checks_at_once: int = Field(4, ge=1, description="Of one Frames replica.")


class FrameSettings(Frozen):
    """How stills are taken out of videos."""

    max_frames: int = Field(500, ge=1, description="The largest max_frames of a request.")
    survey_hz: float = Field(8.0, gt=0, description="Stills looked at for each second of video.")
    max_surveyed: int = Field(6_000, ge=1, description="Stills looked at in all; a long video is looked at less often.")
    survey_side_px: int = Field(640, ge=64, description="Longer side of a still that is looked at.")
    timeout_s: float = Field(900.0, gt=0, description="For all the work on one video.")
    memory_bytes: int = Field(4_000_000_000, gt=0, description="Memory of the process that decodes.")
    num_threads: int = Field(0, ge=0, description="Threads of one decoder; 0: all cores.")
    max_at_once: int = Field(1, ge=1, description="Videos that one Frames replica works on at once.")
    num_replicas: int = Field(1, ge=1)
    hardware: Literal["auto", "off"] = Field("auto", description="Decode large videos on a GPU where there is one.")
    yunet_path: Path | None = Field(None, description="ONNX file of the YuNet face detector, if there is one.")


class ModerationSettings(Frozen):
    """Who looks at pictures and prompts, and what is done about what they find."""

    classifier: Literal["open-nsfw", "transformers"] = "open-nsfw"
    model: str | None = Field(None, description="Hub id or folder of an image classifier, for `transformers`.")
    revision: str | None = Field(None, description="Commit, tag or branch of a model from the hub; pin it.")
    unsafe_labels: tuple[str, ...] = Field(
        ("nsfw", "porn", "hentai", "sexy", "explicit", "unsafe"), description="Its labels that mean `sexual`."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    action: Action = Field("block", description="For tenants that have none of their own.")
    sexual_threshold: float = Field(0.8, gt=0, le=1, description="From this score on something is flagged.")
    minors_threshold: float = Field(0.5, gt=0, le=1, description="The same, for prompts about minors.")
    max_batch_size: int = Field(32, ge=1)
    batch_wait_s: float = Field(0.005, ge=0, description="How long a picture waits for others to be looked at with.")
    timeout_s: float = Field(30.0, gt=0, description="For an answer of the moderator.")
    num_replicas: int = Field(1, ge=1)
    num_threads: int = Field(0, ge=0, description="CPU threads of the classifier; 0: all cores.")

    @model_validator(mode="after")
    def _check_model(self) -> "ModerationSettings":
        if self.classifier == "transformers" and not self.model:
            raise ValueError("moderation.classifier is 'transformers', so moderation.model must name one")
        return self

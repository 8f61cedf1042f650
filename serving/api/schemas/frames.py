"""What POST /v1/frames takes; how stills are told is in jobs.py, for they are a job's result."""

from pydantic import ConfigDict, Field

from pipelines.request import FacePreference, OutputFormat
from serving.api.schemas.terms import Terms
from serving.jobs.frames_wish import FramesWish


class FramesBody(Terms):
    """Unknown fields are refused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    upload_id: str = Field(max_length=100, description="A video that is ready.")
    max_frames: int | None = Field(None, description="At most so many stills; 24 when left out.")
    min_sharpness: float | None = Field(
        None, description="Variance of the Laplacian below which a still is blurry; left out, its scene decides."
    )
    faces: FacePreference | None = Field(None, description="any when left out; require: none without a face.")
    dedupe: bool | None = Field(None, description="Whether near-duplicates are dropped; true when left out.")
    output_format: OutputFormat | None = Field(None, description="jpeg when left out.")
    user: str | None = Field(None, description="Whose they are: part of their path in the object store.")

    def wish(self) -> FramesWish:
        """The same in the words of the rooms below, silent fields filled in."""
        return FramesWish(
            upload_id=self.upload_id,
            max_frames=self.max_frames,
            min_sharpness=self.min_sharpness,
            faces=self.faces or "any",
            dedupe=self.dedupe is not False,
            output_format=self.output_format or "jpeg",
            priority=self.priority or "normal",
            metadata=self.metadata or {},
            user=self.user,
            expires_in_s=self.expires_in_s,
            webhook_url=self.webhook_url,
        )

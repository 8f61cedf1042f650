"""What every call that makes a job takes beside what is to be made."""

from pydantic import BaseModel, ConfigDict, Field

from serving.jobs.job import Priority


class Terms(BaseModel):
    """null means the same as leaving a field out."""

    # Strict: "3" is not a number here, and true is not 1.
    model_config = ConfigDict(strict=True)

    priority: Priority | None = None
    metadata: dict[str, str] | None = None
    webhook_url: str | None = Field(None, max_length=2_048, description="Told when the job starts and how it ends.")
    expires_in_s: float | None = Field(
        None, description="A job that has not ended after so many seconds fails; from 1 to the server's limit, a day."
    )

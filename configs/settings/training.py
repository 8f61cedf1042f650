"""How LoRAs are trained: what the Trainer may use of its machine, and whom it may ask instead."""

from pydantic import Field, SecretStr

from configs.settings.blocks import Frozen


class FalSettings(Frozen):
    """fal.ai as a trainer for the models that we cannot train ourselves; off until there is a key."""

    key: SecretStr | None = None
    queue_url: str = "https://queue.fal.run"
    # Base model → endpoint, a key of the table in serving/training/fal.py.
    models: dict[str, str] = {"flux-dev": "fal-ai/flux-lora-fast-training"}
    poll_s: float = Field(3.0, gt=0)
    timeout_s: float = Field(7_200.0, gt=0, description="For one training there, from its request to its file.")
    max_inline_bytes: int = Field(
        8_000_000, ge=0, description="A smaller dataset goes along with the request; a larger one by pre-signed URL."
    )


class TrainingSettings(Frozen):
    """What trainings may use, and what a request may ask for."""

    num_replicas: int = Field(1, ge=1)
    max_at_once: int = Field(2, ge=1, description="Trainings that one Trainer works on at once.")
    recipe: str = Field("subject", description="Used when a request names none; a file in configs/training.")
    max_steps: int = Field(20_000, ge=1)
    max_rank: int = Field(256, ge=1)
    max_uploads: int = Field(50, ge=1, description="Of one training.")
    num_threads: int = Field(0, ge=0, description="CPU threads of one training; 0: its share of the cores.")
    niceness: int = Field(19, ge=0, le=19, description="Of a training: pictures that people wait for go first.")
    memory_bytes: int | None = Field(None, gt=0, description="Address space of one training; None: no bound.")
    checkpoint_s: float = Field(20.0, gt=0, description="How often a training is saved; what is lost is done again.")
    max_crashes: int = Field(3, ge=1, description="A training that breaks this often without a step forward fails.")
    prepare_timeout_s: float = Field(1_800.0, gt=0, description="For choosing and captioning its pictures.")
    measure_timeout_s: float = Field(120.0, gt=0, description="For measuring how fast this machine trains.")
    captioner: str | None = Field(None, description="Hub id or folder of a captioner (BLIP, Florence-2) for `model`.")
    captioner_revision: str | None = Field(None, description="Commit, tag or branch of a captioner from the hub.")
    fal: FalSettings = FalSettings()

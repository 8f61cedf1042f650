"""The blocks of the configuration: one class for each part of the server, each field with its limits."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Frozen(BaseModel):
    """Base of every settings block: immutable, and a misspelt key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(Frozen):
    format: Literal["json", "pretty"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class ApiSettings(Frozen):
    max_body_bytes: int = Field(8_388_608, gt=0, description="A larger JSON body is refused with 413.")
    body_deadline_s: float = Field(60.0, gt=0, description="A body that takes longer to arrive is refused with 408.")
    max_upload_bytes: int = Field(1_073_741_824, gt=0, description="A larger multipart body is refused with 413.")
    max_adapter_bytes: int = Field(1_000_000_000, gt=0, description="A larger LoRA file is refused with 413.")
    max_json_depth: int = Field(32, gt=0, description="Deeper nesting is refused with 400.")
    max_prompt_chars: int = Field(4_000, gt=0)
    sync_deadline_s: float = Field(600.0, gt=0, description="How long an image call waits for its job.")
    keep_alive_s: float = Field(15.0, gt=0, description="A comment in every stream that was silent for so long.")
    max_image_bytes: int = Field(10_000_000, gt=0, description="Of one picture or mask to start from.")
    max_image_px: int = Field(4_096, gt=0, description="Of either side of a picture to start from.")
    max_wait_s: int = Field(60, gt=0, description="The largest N of `Prefer: wait=N`.")
    idempotency_keep_s: float = Field(86_400.0, gt=0, description="How long an Idempotency-Key is remembered.")
    num_replicas: int = Field(1, ge=1)
    max_ongoing_requests: int = Field(512, ge=1)
    public_url: str | None = Field(None, description="Address clients use, where it differs from host and port.")


class JobSettings(Frozen):
    lease_s: float = Field(15.0, gt=0, description="A claim not renewed for this long is taken from its owner.")
    heartbeat_s: float = Field(5.0, gt=0)
    poll_s: float = Field(1.0, gt=0, description="How often a Router looks for jobs nobody drives.")
    max_attempts: int = Field(5, ge=1, description="Tries of a job that fails in a way which may pass.")
    max_lost_workers: int = Field(3, ge=1, description="A job whose worker was lost this often is given up.")
    max_age_s: float = Field(86_400.0, gt=0, description="The default and the largest expires_in_s.")
    retry_base_s: float = Field(2.0, gt=0, description="Wait before the second try; doubles with every further one.")
    retry_cap_s: float = Field(60.0, gt=0)
    max_queued: int = Field(100_000, ge=1, description="Over all tenants; beyond it 429 with Retry-After.")
    max_queued_per_tenant: int = Field(10_000, ge=1)
    share_half_life_s: float = Field(300.0, gt=0, description="After so long half of what a tenant used is forgotten.")
    run_deadline_s: float = Field(1_800.0, gt=0, description="A job that runs longer fails with code deadline.")
    lora_run_deadline_s: float = Field(43_200.0, gt=0, description="The same for a training.")
    lora_max_lost_workers: int = Field(20, ge=1, description="As max_lost_workers; a training goes on where it was.")
    progress_write_s: float = Field(0.5, gt=0, description="At most one progress write a job in this time.")
    drain_s: float = Field(20.0, ge=0, description="What runs when the server stops may finish within this time.")
    sweep_after_s: float = Field(300.0, gt=0, description="Leftovers of lost attempts go this long after a job's end.")
    temp_keep_s: float = Field(86_400.0, gt=0, description="How long after its end a job's input files are kept.")
    keep_s: float = Field(2_592_000.0, gt=0, description="Ended jobs and their results are deleted after this.")


class RouterSettings(Frozen):
    num_replicas: int = Field(1, ge=1)
    max_driven_per_model: int = Field(64, ge=1, description="Pictures of one model in the making, over all Routers.")


class MongoSettings(Frozen):
    url: SecretStr | None = Field(None, description="None: the embedded server in the state folder.")
    database: str = Field("darkroom", min_length=1)
    timeout_s: float = Field(10.0, gt=0)


class S3Settings(Frozen):
    endpoint: str | None = Field(None, description="None: the embedded server in the state folder.")
    public_endpoint: str | None = Field(
        None, description="What pre-signed URLs carry, where clients need another name."
    )
    bucket: str = Field("darkroom", min_length=3)
    access_key: str | None = None
    secret_key: SecretStr | None = None
    region: str = "us-east-1"
    url_expiry_s: int = Field(3_600, gt=0, le=604_800)
    timeout_s: float = Field(20.0, gt=0)


class OutboundSettings(Frozen):
    """Calls to URLs that clients name."""

    allow: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Ranges that clients may send the server to though they are not public, such as 10.1.0.0/16."
    )
    lookup_timeout_s: float = Field(5.0, gt=0, description="For looking up a name while a client waits.")


class WebhookSettings(Frozen):
    max_endpoints: int = Field(20, ge=1, description="Of one tenant.")
    timeout_s: float = Field(10.0, gt=0, description="For one whole attempt.")
    max_response_bytes: int = Field(65_536, gt=0, description="Read of an answer at most.")
    # Standard Webhooks' own schedule, 75 h 35 min in all.
    retry_waits_s: tuple[float, ...] = Field(
        (0, 5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400),
        min_length=1,
        description="Wait before each attempt; after the last one the delivery has failed.",
    )
    jitter: float = Field(0.1, ge=0, lt=1, description="Each wait is this part longer or shorter, at random.")
    slow_wait_s: float = Field(5.0, gt=0, description="Pause of an endpoint that is overloaded; doubles each time.")
    slow_cap_s: float = Field(300.0, gt=0, description="Longest such pause that the endpoint did not ask for.")
    max_retry_after_s: float = Field(86_400.0, gt=0, description="Longest pause that an endpoint may ask for.")
    max_endpoints_at_once: int = Field(64, ge=1, description="Endpoints that one Router sends to at once.")
    max_in_flight_per_endpoint: int = Field(4, ge=1)
    lease_s: float = Field(60.0, gt=0, description="An endpoint's queue not renewed for this long is taken over.")
    poll_s: float = Field(0.5, gt=0, description="How often a Router looks for news and for due deliveries.")
    progress_every_s: float = Field(2.0, gt=0, description="At most one job.progress of a job in this time.")
    rotation_s: float = Field(86_400.0, ge=0, description="How long a replaced secret still signs, beside the new one.")
    keep_s: float = Field(2_592_000.0, gt=0, description="Deliveries that came to their end are deleted after this.")


class RaySettings(Frozen):
    dashboard_port: int = Field(8265, ge=0, le=65_535, description="0 picks a free port.")
    object_store_bytes: int = Field(200_000_000, ge=78_643_200)
    num_cpus: int = Field(16, ge=1, description="Scheduling slots of this node, not cores: replicas ask for little.")
    ready_timeout_s: float = Field(1_800.0, gt=0, description="First start of a large model downloads its weights.")


class ModelSettings(Frozen):
    enabled: tuple[str, ...] = Field(("emoji-3d",), min_length=1, description="Catalogue ids served by this server.")
    default_image: str | None = Field(None, description="Used when a request names no model; None: the first enabled.")
    dirs: dict[str, Path] = Field(
        default_factory=dict, description="Model id → local diffusers folder, instead of the hub."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    cache_max_bytes: int = Field(200_000_000_000, gt=0, description="The local weight cache evicts beyond this.")
    num_threads: int = Field(0, ge=0, description="CPU threads of an engine; 0: all cores.")


class EngineSettings(Frozen):
    """How an engine packs, caches and shows; none of it changes a pixel."""

    max_active: int = Field(64, ge=1, description="Pictures in the making at once; more wait, in order of arrival.")
    max_batch_rows: int = Field(32, ge=1, description="Rows of one forward pass; guidance takes two for a picture.")
    max_batch_px: int = Field(67_108_864, gt=0, description="Rows times pixels of one forward pass.")
    measure_rows: tuple[int, ...] = Field((1, 2, 4, 8, 16), description="Batch sizes timed when a model loads.")
    measure_budget_s: float = Field(4.0, ge=0, description="Time for measuring at load; kept on disk for next time.")
    embedding_cache_bytes: int = Field(256_000_000, ge=0)
    max_encode_batch: int = Field(16, ge=1, description="Prompts encoded together.")
    max_decode_px: int = Field(4_194_304, gt=0, description="Pixels decoded together; a larger picture goes alone.")
    tile_above_px: int = Field(4_194_304, gt=0, description="Larger pictures are decoded in overlapping tiles.")
    adapter_device_bytes: int = Field(2_000_000_000, ge=0, description="Adapters on the device, least used go first.")
    adapter_host_bytes: int = Field(8_000_000_000, ge=0, description="Adapters in main memory.")
    adapter_disk_bytes: int = Field(50_000_000_000, ge=0, description="Adapters in the state folder.")
    preview_every_steps: int = Field(5, ge=0, description="A small preview every so many steps; 0: none.")
    channels_last: bool = Field(True, description="Memory layout that convolutions prefer.")
    compile: bool = Field(False, description="torch.compile the denoiser, per shape; slow first start, CUDA only.")
    cuda_graphs: bool = Field(False, description="With compile: replay whole steps as CUDA graphs.")

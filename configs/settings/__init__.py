"""Every knob, typed and frozen; the only reader of YAML and of the environment. Unknown keys stop the start."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, SecretStr, ValidationError, model_validator

from configs.settings.blocks import (
    ApiSettings,
    EngineSettings,
    Frozen,
    JobSettings,
    LogSettings,
    ModelSettings,
    MongoSettings,
    OutboundSettings,
    RaySettings,
    RouterSettings,
    S3Settings,
    WebhookSettings,
)
from configs.settings.intake import Action, FrameSettings, ModerationSettings, UploadSettings
from configs.settings.training import FalSettings, TrainingSettings

__all__ = [
    "Action",
    "ApiSettings",
    "CONFIG_DIR",
    "DEFAULT_STATE_DIR",
    "ENV_KEYS",
    "EngineSettings",
    "FalSettings",
    "FrameSettings",
    "Frozen",
    "JobSettings",
    "LogSettings",
    "ModelSettings",
    "ModerationSettings",
    "MongoSettings",
    "OTHER_ENV_KEYS",
    "OutboundSettings",
    "PROJECT_DIR",
    "RaySettings",
    "RouterSettings",
    "S3Settings",
    "Settings",
    "SettingsError",
    "TrainingSettings",
    "UploadSettings",
    "WebhookSettings",
    "load_settings",
    "read_yaml",
]

CONFIG_DIR = Path(__file__).resolve().parent.parent
PROJECT_DIR = CONFIG_DIR.parent
DEFAULT_STATE_DIR = Path(".darkroom")


class SettingsError(ValueError):
    """The configuration cannot be used; the message names the key and what it may be."""


class Settings(Frozen):
    """The whole configuration of one Darkroom."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=1, le=65_535)
    state_dir: Path = DEFAULT_STATE_DIR
    admin_key: SecretStr | None = Field(None, description="None: one is made at first start, in {state_dir}/admin-key.")
    log: LogSettings = LogSettings()
    api: ApiSettings = ApiSettings()
    jobs: JobSettings = JobSettings()
    router: RouterSettings = RouterSettings()
    mongo: MongoSettings = MongoSettings()
    s3: S3Settings = S3Settings()
    outbound: OutboundSettings = OutboundSettings()
    webhooks: WebhookSettings = WebhookSettings()
    ray: RaySettings = RaySettings()
    models: ModelSettings = ModelSettings()
    engine: EngineSettings = EngineSettings()
    uploads: UploadSettings = UploadSettings()
    frames: FrameSettings = FrameSettings()
    moderation: ModerationSettings = ModerationSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _check_together(self) -> "Settings":
        if self.jobs.heartbeat_s * 2 > self.jobs.lease_s:
            raise ValueError("jobs.heartbeat_s must be at most half of jobs.lease_s, or one late beat loses the job")
        if self.webhooks.timeout_s * 2 > self.webhooks.lease_s:
            raise ValueError("webhooks.timeout_s must be at most half of webhooks.lease_s, or events are sent twice")
        if self.s3.endpoint and not (self.s3.access_key and self.s3.secret_key):
            raise ValueError("s3.endpoint is set, so s3.access_key and s3.secret_key must be set too")
        if self.models.default_image and self.models.default_image not in self.models.enabled:
            raise ValueError(f"models.default_image {self.models.default_image!r} is not among models.enabled")
        return self

    @property
    def default_image_model(self) -> str:
        return self.models.default_image or self.models.enabled[0]

    @property
    def public_url(self) -> str:
        """Address of the API for people and clients on this machine, without a trailing slash."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host
        return (self.api.public_url or f"http://{host}:{self.port}").rstrip("/")


Environment = Annotated[Mapping[str, str], "DARKROOM_* variables"]

ENV_KEYS: dict[str, tuple[str, ...]] = {
    "DARKROOM_HOST": ("host",),
    "DARKROOM_PORT": ("port",),
    "DARKROOM_STATE_DIR": ("state_dir",),
    "DARKROOM_ADMIN_KEY": ("admin_key",),
    "DARKROOM_MONGO_URL": ("mongo", "url"),
    "DARKROOM_S3_ENDPOINT": ("s3", "endpoint"),
    "DARKROOM_S3_PUBLIC_ENDPOINT": ("s3", "public_endpoint"),
    "DARKROOM_S3_BUCKET": ("s3", "bucket"),
    "DARKROOM_S3_ACCESS_KEY": ("s3", "access_key"),
    "DARKROOM_S3_SECRET_KEY": ("s3", "secret_key"),
    "DARKROOM_PUBLIC_URL": ("api", "public_url"),
    "DARKROOM_DASHBOARD_PORT": ("ray", "dashboard_port"),
    "DARKROOM_FAL_KEY": ("training", "fal", "key"),
    "DARKROOM_LOG_FORMAT": ("log", "format"),
    "DARKROOM_LOG_LEVEL": ("log", "level"),
}
# Read elsewhere on purpose: the file to load, the client's key, and what the supervisor tells its children.
OTHER_ENV_KEYS = {"DARKROOM_CONFIG", "DARKROOM_API_KEY", "DARKROOM_URL", "DARKROOM_RUN_ID"}


def load_settings(env: Environment | None = None, *, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Defaults, then the YAML that DARKROOM_CONFIG names, then DARKROOM_* variables, then `overrides` (nested keys).

    Raises SettingsError for an unreadable file, an unknown key or variable, or a value out of range.
    """
    env = os.environ if env is None else env
    unknown = sorted(k for k in env if k.startswith("DARKROOM_") and k not in ENV_KEYS and k not in OTHER_ENV_KEYS)
    if unknown:
        known = ", ".join(sorted(ENV_KEYS | dict.fromkeys(OTHER_ENV_KEYS, ())))
        raise SettingsError(f"unknown environment variable {unknown[0]}; known are: {known}")
    tree: dict[str, Any] = {}
    if path := env.get("DARKROOM_CONFIG"):
        tree = read_yaml(Path(path))
    for name, keys in ENV_KEYS.items():
        if value := env.get(name):
            _set(tree, keys, value)
    _merge(tree, overrides or {})
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"settings cannot be used: {problems}") from error
    return settings.model_copy(update={"state_dir": settings.state_dir.expanduser().resolve()})


def read_yaml(path: Path) -> dict[str, Any]:
    """One YAML file as a mapping; SettingsError names the file when it is missing, broken or not a mapping."""
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"{path}: expected a mapping of settings, found {type(tree).__name__}")
    return tree


def _set(tree: dict[str, Any], keys: tuple[str, ...], value: object) -> None:
    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
    tree[keys[-1]] = value


def _merge(tree: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = dict(value) if isinstance(value, Mapping) else value

"""Settings refuse what they do not know, and say which key."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from configs.settings import CONFIG_DIR, ENV_KEYS, SettingsError, load_settings, read_yaml


def write(path: Path, text: str) -> dict[str, str]:
    path.write_text(text)
    return {"DARKROOM_CONFIG": str(path)}


def test_defaults_stand_alone() -> None:
    settings = load_settings({})
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.default_image_model == "emoji-3d"
    assert settings.state_dir.is_absolute()
    assert settings.public_url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIG_DIR.glob("*.yaml")))
def test_every_shipped_configuration_is_valid(name: str) -> None:
    load_settings({"DARKROOM_CONFIG": str(CONFIG_DIR / name)})


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("jobs:\n  lease_sec: 3\n", r"jobs\.lease_sec"),
        ("prot: 8000\n", "prot"),
        ("models:\n  device: gpu\n", r"models\.device"),
        ("port: 70000\n", "port"),
        ("api:\n  max_body_bytes: 0\n", r"api\.max_body_bytes"),
    ],
)
def test_a_misspelt_key_or_a_value_out_of_range_stops_the_start(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        load_settings(write(tmp_path / "c.yaml", text))


@pytest.mark.parametrize("text", ["- a\n", "a: [", ""])
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"c\.yaml"):
        load_settings(write(tmp_path / "c.yaml", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
        load_settings({"DARKROOM_CONFIG": str(tmp_path / "nowhere.yaml")})


def test_the_environment_wins_over_the_file_and_overrides_win_over_both(tmp_path: Path) -> None:
    env = write(tmp_path / "c.yaml", "port: 9000\nhost: 10.0.0.1\ns3:\n  bucket: from-file\n  region: eu-1\n")
    env |= {"DARKROOM_PORT": "9001", "DARKROOM_S3_BUCKET": "from-env"}
    settings = load_settings(env)
    assert (settings.port, settings.host) == (9001, "10.0.0.1")
    assert (settings.s3.bucket, settings.s3.region) == ("from-env", "eu-1")
    assert load_settings(env, overrides={"port": 9002, "s3": {"region": "eu-2"}}).s3.bucket == "from-env"
    assert load_settings(env, overrides={"port": 9002}).port == 9002


def test_every_documented_variable_reaches_its_setting() -> None:
    values = {name: "x" * 8 for name in ENV_KEYS} | {
        "DARKROOM_PORT": "9000",
        "DARKROOM_DASHBOARD_PORT": "9001",
        "DARKROOM_LOG_FORMAT": "pretty",
        "DARKROOM_LOG_LEVEL": "debug",
    }
    settings = load_settings(values)
    for name, keys in ENV_KEYS.items():
        value: object = settings
        for key in keys:
            value = getattr(value, key)
        if name == "DARKROOM_STATE_DIR":
            assert str(value).endswith(values[name])
        else:
            plain = value.get_secret_value() if hasattr(value, "get_secret_value") else value
            assert str(plain) == values[name], name


def test_an_unknown_variable_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"DARKROOM_PROT; known are: .*DARKROOM_PORT"):
        load_settings({"DARKROOM_PROT": "9000"})


def test_variables_of_other_programs_are_left_alone() -> None:
    load_settings({"PATH": "/bin", "MY_DARKROOM": "1", "DARKROOM_API_KEY": "dk_1", "DARKROOM_HOST": ""})


@pytest.mark.parametrize(("lease_s", "heartbeat_s", "is_fine"), [(4, 2, True), (4, 2.1, False), (30, 10, True)])
def test_the_heartbeat_must_fit_twice_into_the_lease(lease_s: float, heartbeat_s: float, is_fine: bool) -> None:
    overrides = {"jobs": {"lease_s": lease_s, "heartbeat_s": heartbeat_s}}
    if is_fine:
        assert load_settings({}, overrides=overrides).jobs.heartbeat_s == heartbeat_s
        return
    with pytest.raises(SettingsError, match=r"jobs\.heartbeat_s must be at most half"):
        load_settings({}, overrides=overrides)


def test_a_foreign_s3_needs_its_keys() -> None:
    with pytest.raises(SettingsError, match=r"s3\.access_key"):
        load_settings({"DARKROOM_S3_ENDPOINT": "https://s3.example"})


def test_the_default_model_must_be_enabled() -> None:
    with pytest.raises(SettingsError, match="'sdxl' is not among"):
        load_settings({}, overrides={"models": {"default_image": "sdxl"}})


def test_settings_cannot_be_changed_and_do_not_show_secrets() -> None:
    settings = load_settings({"DARKROOM_ADMIN_KEY": "dk_secret", "DARKROOM_S3_SECRET_KEY": "s3_secret"})
    assert "secret" not in repr(settings).replace("secret_key", "")
    with pytest.raises(ValidationError):
        settings.port = 1


def test_the_public_url_is_one_that_a_client_can_open() -> None:
    assert load_settings({"DARKROOM_HOST": "0.0.0.0"}).public_url == "http://127.0.0.1:8000"
    assert load_settings({"DARKROOM_PUBLIC_URL": "https://d.example/"}).public_url == "https://d.example"


def test_read_yaml_never_builds_objects(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(SettingsError, match=r"evil\.yaml"):
        read_yaml(path)

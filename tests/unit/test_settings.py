"""Where settings come from: code, variables, files with secrets, a settings file."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from quantmill.contract.errors import RequestRejected
from quantmill.settings import SECRETS, Settings


@pytest.fixture
def settings_file(tmp_path, monkeypatch):
    def write(text):
        path = tmp_path / "quantmill.toml"
        path.write_text(text)
        monkeypatch.setenv("QUANTMILL_SETTINGS_FILE", str(path))

    return write


def test_a_settings_file_says_what_variables_could(settings_file):
    settings_file('lease_seconds = 90\nsource_roots = ["/models", "/texts"]\ndevice = "cuda"\n')

    settings = Settings()

    assert (settings.lease_seconds, settings.device) == (90, "cuda")
    assert settings.source_roots == (Path("/models"), Path("/texts"))


def test_a_variable_wins_over_the_file_and_code_over_both(settings_file, monkeypatch):
    settings_file("lease_seconds = 90\nheartbeat_seconds = 9\nslots = 3\n")
    monkeypatch.setenv("QUANTMILL_LEASE_SECONDS", "91")
    monkeypatch.setenv("QUANTMILL_HEARTBEAT_SECONDS", "8")

    settings = Settings(heartbeat_seconds=7)

    assert (settings.lease_seconds, settings.heartbeat_seconds, settings.slots) == (91, 7, 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [("leese_seconds = 1", "leese_seconds"), ("lease_seconds 1", "cannot be read"), ("\0", "cannot be read")],
)
def test_a_file_with_what_is_no_setting_is_refused(settings_file, text, said):
    settings_file(text)

    with pytest.raises(RequestRejected, match=said):
        Settings()


def test_a_file_that_is_not_there_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTMILL_SETTINGS_FILE", str(tmp_path / "missing.toml"))

    with pytest.raises(RequestRejected, match=r"missing\.toml"):
        Settings()


def test_a_secret_may_lie_in_a_file_of_its_own(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("postgresql://u:p@db/quantmill\n")
    monkeypatch.setenv("QUANTMILL_DATABASE_URL_FILE", str(tmp_path / "url"))

    settings = Settings()

    assert settings.database == "postgresql://u:p@db/quantmill"
    assert "u:p" not in repr(settings)


def test_a_secret_that_is_given_twice_is_refused(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("redis://one")
    monkeypatch.setenv("QUANTMILL_BROKER_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("QUANTMILL_BROKER_URL", "redis://another")

    with pytest.raises(RequestRejected, match="both set"):
        Settings()


def test_a_secret_whose_file_is_missing_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("QUANTMILL_AUTOSCALING_TOKEN_FILE", str(tmp_path / "token"))

    with pytest.raises(RequestRejected, match="QUANTMILL_AUTOSCALING_TOKEN_FILE"):
        Settings()


@pytest.mark.parametrize("text", ["", " \n"])
def test_a_secret_whose_file_is_empty_is_refused_by_name(monkeypatch, tmp_path, text):
    (tmp_path / "token").write_text(text)
    monkeypatch.setenv("QUANTMILL_AUTOSCALING_TOKEN_FILE", str(tmp_path / "token"))

    with pytest.raises(RequestRejected, match=r"QUANTMILL_AUTOSCALING_TOKEN_FILE=.*is empty"):
        Settings()


def test_no_token_is_empty(settings_file):
    settings_file('autoscaling_token = ""\n')

    with pytest.raises(ValidationError, match="autoscaling_token"):
        Settings()


def test_an_empty_variable_says_nothing(monkeypatch, tmp_path):
    (tmp_path / "url").write_text("redis://one")
    monkeypatch.setenv("QUANTMILL_BROKER_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("QUANTMILL_BROKER_URL", "")
    monkeypatch.setenv("QUANTMILL_AUTOSCALING_TOKEN", "")

    settings = Settings()

    assert (settings.broker_url, settings.autoscaling_token) == (SecretStr("redis://one"), None)


def test_all_that_is_secret_can_lie_in_files():
    secret = {name for name, field in Settings.model_fields.items() if SecretStr.__name__ in str(field.annotation)}

    assert secret == set(SECRETS)


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user id that passwd does not know

    with pytest.raises(RequestRejected, match="QUANTMILL_DATA_DIR"):
        Settings()

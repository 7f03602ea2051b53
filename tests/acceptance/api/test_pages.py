"""Page tokens belong to one listing of one installation."""

from __future__ import annotations

import stat
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest

from quantmill.api.pages import Cursors, installation_secret
from quantmill.api.problems import PageTokenRejected

CURSORS = Cursors(b"k" * 32)
FILTERS = {"list": "jobs", "state": "queued", "label": None}


def test_a_token_gives_back_its_row():
    assert CURSORS.decode(CURSORS.encode("row-7", FILTERS), FILTERS) == "row-7"


def test_a_token_of_other_filters_is_refused():
    token = CURSORS.encode("row-7", FILTERS)

    with pytest.raises(PageTokenRejected, match="other filters"):
        CURSORS.decode(token, {**FILTERS, "state": "failed"})


def test_a_token_of_another_installation_is_refused():
    with pytest.raises(PageTokenRejected):
        Cursors(b"x" * 32).decode(CURSORS.encode("row-7", FILTERS), FILTERS)


@pytest.mark.parametrize("position", [0, 15, 16, 30, -1])
def test_a_token_with_one_byte_changed_is_refused(position):
    token = CURSORS.encode("row-7", FILTERS)
    raw = bytearray(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[position] ^= 1

    with pytest.raises(PageTokenRejected):
        CURSORS.decode(urlsafe_b64encode(raw).decode(), FILTERS)


@pytest.mark.parametrize("token", ["", "x", "====", "né", "a b", "\n", "A" * 1000])
def test_what_is_no_token_is_refused(token):
    with pytest.raises(PageTokenRejected):
        CURSORS.decode(token, FILTERS)


@pytest.mark.parametrize("query", [{"page_token": "made-up"}, {"page_token": "é"}])
def test_the_api_answers_a_wrong_token_with_400(api, query):
    response = api.get("/v1/jobs", params=query)

    assert (response.status_code, response.json()["type"]) == (400, "/problems/PageTokenRejected")


def test_the_api_refuses_a_token_under_other_filters(api, submitted):
    for seed in range(2):
        submitted(seed=seed)
    token = api.get("/v1/jobs", params={"page_size": 1}).json()["next_page_token"]

    response = api.get("/v1/jobs", params={"page_size": 1, "page_token": token, "state": "queued"})

    assert response.status_code == 400


def test_the_secret_is_made_once_and_is_its_owners_only(tmp_path):
    path = tmp_path / "secret"

    made = {installation_secret(path) for _ in range(3)}

    assert len(made) == 1
    assert len(made.pop()) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_processes_that_start_together_share_one_secret(tmp_path):
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(installation_secret(tmp_path / "s"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(seen)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]

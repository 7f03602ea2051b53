"""Artifacts by digest: files in ranges, digests to check them, lineage."""

from __future__ import annotations

import hashlib
from base64 import b64decode

import pytest

from quantmill.api.artifacts import byte_range

UNKNOWN = "sha256:" + "0" * 64


def test_an_artifact_lists_its_files_and_what_was_measured(api, published):
    artifact = api.get(f"/v1/artifacts/{published.digest}").json()

    assert [file["path"] for file in artifact["files"]] == ["weights.gguf", "quantmill.json"]
    assert artifact["files"][0]["digest"] == f"sha256:{hashlib.sha256(published.content).hexdigest()}"
    assert (artifact["size"], artifact["format"]) == (len(published.content), "gguf")
    assert [(metric["name"], metric["value"]) for metric in artifact["metrics"]] == [("bits_per_weight", 4.5)]


def test_an_artifact_is_not_sent_twice(api, published):
    url = f"/v1/artifacts/{published.digest}"
    etag = api.get(url).headers["ETag"]

    assert etag == f'"{published.digest}"'
    assert api.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_a_file_comes_whole_with_the_digest_to_check_it(api, published):
    response = api.get(published.file_url)

    assert (response.status_code, response.content) == (200, published.content)
    assert response.headers["Content-Length"] == str(len(published.content))
    assert response.headers["Accept-Ranges"] == "bytes"
    kind, _, value = response.headers["Repr-Digest"].partition("=")
    assert (kind, b64decode(value.strip(":"))) == ("sha-256", hashlib.sha256(published.content).digest())
    assert response.headers["ETag"] == f'"sha256:{hashlib.sha256(published.content).hexdigest()}"'


def test_quantmill_json_is_a_file_of_the_artifact(api, published):
    response = api.get(f"/v1/artifacts/{published.digest}/files/quantmill.json")

    assert (response.content, response.headers["Content-Type"]) == (b"{}", "application/json")


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=10000-", 10000, 10240),
        ("bytes=-40", 10200, 10240),
        ("bytes=-99999", 0, 10240),
        ("bytes=10000-99999", 10000, 10240),
    ],
)
def test_a_range_comes_as_asked(api, published, header, start, stop):
    response = api.get(published.file_url, headers={"Range": header})

    assert response.status_code == 206
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/10240"
    assert response.headers["Content-Length"] == str(stop - start)
    assert response.content == published.content[start:stop]


@pytest.mark.parametrize("header", ["bytes=10240-", "bytes=99999-100000", "bytes=-0"])
def test_a_range_past_the_end_is_refused_with_the_size(api, published, header):
    response = api.get(published.file_url, headers={"Range": header})

    assert (response.status_code, response.headers["Content-Type"]) == (416, "application/problem+json")
    assert response.headers["Content-Range"] == "bytes */10240"


@pytest.mark.parametrize("header", ["bytes=5-2", "bytes=0-1,3-4", "lines=1-2", "bytes=-", "bytes=x-y", "nonsense"])
def test_a_range_that_cannot_be_read_means_the_whole_file(api, published, header):
    response = api.get(published.file_url, headers={"Range": header})

    assert (response.status_code, len(response.content)) == (200, 10240)


def test_a_range_of_a_version_that_is_gone_means_the_whole_file(api, published):
    etag = api.get(published.file_url).headers["ETag"]
    ranged = {"Range": "bytes=0-9"}

    assert api.get(published.file_url, headers={**ranged, "If-Range": etag}).status_code == 206
    assert api.get(published.file_url, headers={**ranged, "If-Range": '"sha256:other"'}).status_code == 200
    assert api.get(published.file_url, headers={**ranged, "If-Range": f"W/{etag}"}).status_code == 200


def test_a_file_that_the_caller_has_is_not_sent(api, published):
    etag = api.get(published.file_url).headers["ETag"]

    assert api.get(published.file_url, headers={"If-None-Match": etag}).status_code == 304


def test_no_byte_range_of_an_empty_file_exists():
    assert byte_range(None, 0) is None
    with pytest.raises(Exception, match="0 bytes"):
        byte_range("bytes=0-", 0)


@pytest.mark.parametrize(
    "path",
    ["missing.gguf", "../weights.gguf", "..%2F..%2Fquantmill.sqlite", "%2Fetc%2Fpasswd", "weights.gguf%00", "", "."],
)
def test_only_files_that_the_artifact_lists_exist(api, published, path):
    response = api.get(f"/v1/artifacts/{published.digest}/files/{path}")

    assert (response.status_code, response.headers["Content-Type"]) == (404, "application/problem+json")


def test_a_file_whose_bytes_are_gone_is_a_problem_not_a_broken_download(api, services, published):
    services.blobs.delete(f"sha256:{hashlib.sha256(published.content).hexdigest()}")

    response = api.get(published.file_url)

    assert (response.status_code, response.json()["type"]) == (500, "/problems/ArtifactDamaged")


@pytest.mark.parametrize("suffix", ["", "/files/weights.gguf", "/lineage"])
def test_an_artifact_that_does_not_exist_is_not_found(api, suffix):
    response = api.get(f"/v1/artifacts/{UNKNOWN}{suffix}")

    assert (response.status_code, response.json()["type"]) == (404, "/problems/NotFound")


def test_lineage_says_how_an_artifact_was_made(api, published):
    steps = api.get(f"/v1/artifacts/{published.digest}/lineage").json()["items"]

    assert [(step["child"], step["relation"], step["depth"]) for step in steps] == [(published.digest, "quantized", 1)]
    assert steps[0]["job_id"] == str(published.job.id)
    assert (steps[0]["method"], steps[0]["params"]["type"], steps[0]["seed"]) == ("gguf", "Q4_K_M", 0)


def test_nothing_was_made_from_an_artifact_yet(api, published):
    assert api.get(f"/v1/artifacts/{published.digest}/lineage", params={"direction": "down"}).json()["items"] == []


def test_artifacts_are_listed_in_pages_newest_first(api, publish):
    made = [publish(bytes([n])).digest for n in range(5)]

    first = api.get("/v1/artifacts", params={"page_size": 3}).json()
    second = api.get("/v1/artifacts", params={"page_size": 3, "page_token": first["next_page_token"]}).json()

    assert [each["digest"] for each in first["items"] + second["items"]] == made[::-1]
    assert second["next_page_token"] is None

"""Frames between supervisor and runner."""

import json
import socket
import struct

import pytest
from pydantic import ValidationError

from quantmill.domain.jobs import Phase
from quantmill.worker.messages import MAX_FRAME_BYTES, TO_SUPERVISOR, Progressed, receive, send


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_a_message_arrives_as_it_was_sent(pair):
    left, right = pair
    message = Progressed(phase=Phase.QUANTIZE, done=3, total=39, message="blk.0")

    send(left, message)

    assert TO_SUPERVISOR.validate_python(receive(right)) == message


def test_messages_arrive_one_by_one_though_sent_together(pair):
    left, right = pair
    for done in range(3):
        send(left, Progressed(phase=Phase.VERIFY, done=done))

    assert [receive(right)["done"] for _ in range(3)] == [0, 1, 2]


def test_the_end_of_the_stream_is_none(pair):
    left, right = pair
    left.close()

    assert receive(right) is None


def test_a_frame_cut_short_is_the_end_of_the_stream(pair):
    left, right = pair
    left.sendall(struct.pack(">I", 100) + b"{")
    left.close()

    assert receive(right) is None


def test_a_frame_that_claims_too_much_is_refused_before_it_is_read(pair):
    left, right = pair
    left.sendall(struct.pack(">I", MAX_FRAME_BYTES + 1))

    with pytest.raises(ValueError, match=str(MAX_FRAME_BYTES)):
        receive(right)


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "publish"},
        {"type": "progress", "phase": "dance"},
        {"type": "progress", "phase": "verify", "epoch": 7},
        {"type": "unit", "unit": {"key": "a"}},
        [],
    ],
)
def test_a_frame_outside_the_protocol_is_refused(frame):
    with pytest.raises(ValidationError):
        TO_SUPERVISOR.validate_python(json.loads(json.dumps(frame)))

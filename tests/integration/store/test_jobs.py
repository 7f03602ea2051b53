"""Jobs in both databases: what is accepted reads back, and each move has its guard."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from quantmill.contract.errors import (
    IllegalTransition,
    NotFound,
    ParamsRejected,
    RequestRejected,
    SourceRejected,
    describe,
)
from quantmill.domain.identifiers import uuid7
from quantmill.domain.jobs import JobRequest, Outcome, Phase, Progress, State, Waiting
from quantmill.store import jobs, tables
from quantmill.store.events import list_events

ERROR = {"kind": "plugin", "detail": "it broke"}
ANY = ["{}"]


# Submit and read


def test_a_job_reads_back_as_it_was_asked_for(submit, read):
    request = JobRequest(
        source="/models/größe",
        method="gguf",
        params={"type": "Q4_K_M", "nested": {"list": [1, 2.5, None, True]}},
        evaluation_text="/texts/e.txt",
        seed=2**63 - 1,
        timeout_seconds=60,
        labels={"team": "a", "'\"$.x": "{}"},
        gates=("size_mb <= 9", "kld.mean < 1"),
    )
    plan = {"tensors": [{"name": "b"}, {"name": "a"}], "units": []}

    job = submit(**vars(request) | {"plan": plan, "timeout_seconds": 60})

    assert job.request == request
    assert job.plan == plan
    assert (job.state, job.epoch, job.attempts) == (State.QUEUED, 0, ())
    assert read(jobs.get_job, job.id) == job


def test_the_first_event_stands_with_the_job(submit, read):
    job = submit()

    (event,) = read(list_events, job.id, 0, 10)

    assert (event.seq, event.type, event.epoch) == (1, "job.queued", 0)
    assert event.at - job.created_at < timedelta(seconds=5)


def test_a_job_that_does_not_exist_is_not_found(read):
    with pytest.raises(NotFound, match="there is no job"):
        read(jobs.get_job, uuid7())


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"source": "/models/\0"}, "/source"),
        ({"params": {"a": ["\ud800"]}}, "/params"),
        ({"params": {"\0": 1}}, "/params"),
        ({"labels": {"team": "\0"}}, "/labels"),
        ({"seed": 2**63}, "/seed"),
        ({"seed": -1}, "/seed"),
    ],
)
def test_what_a_database_cannot_hold_is_refused(submit, read, given, pointer):
    with pytest.raises(RequestRejected) as refused:
        submit(**given)

    assert refused.value.fields["pointer"] == pointer
    assert read(jobs.list_jobs, limit=10) == []


def test_jobs_are_listed_newest_first_without_their_plans(submit, read):
    made = [submit(plan={"tensors": ["many"]}, labels={"n": str(number)}) for number in range(3)]

    listed = read(jobs.list_jobs, limit=10)

    assert [job.id for job in listed] == [job.id for job in reversed(made)]
    assert [job.plan for job in listed] == [{}, {}, {}]
    assert [job.request.labels for job in listed] == [{"n": "2"}, {"n": "1"}, {"n": "0"}]


def test_pages_of_any_size_make_up_the_whole_list(submit, read):
    made = [submit().id for _ in range(7)]

    for size in (1, 2, 3, 10):
        seen, after = [], None
        while page := read(jobs.list_jobs, after=after, limit=size):
            seen += [job.id for job in page]
            after = page[-1].id
        assert seen == made[::-1]


def test_a_list_is_narrowed_by_state_method_and_label(submit, start, read):
    queued = submit(method="gguf", labels={"team": "a", "tier": "1"})
    running = start(method="hqq", labels={"team": "b"})

    def found(**wanted):
        return [job.id for job in read(jobs.list_jobs, limit=10, **wanted)]

    assert found(state=State.RUNNING) == [running.id]
    assert found(method="gguf") == [queued.id]
    assert found(label=("team", "a")) == [queued.id]
    assert found(label=("team", "b"), state=State.QUEUED) == []
    assert found(label=("' OR 1=1 --", "a")) == []


# The one move


def test_each_move_writes_its_event(start, publish, read):
    job = start()
    publish(job)

    events = read(list_events, job.id, 0, 10)

    assert [(event.seq, event.type, event.epoch) for event in events] == [
        (1, "job.queued", 0),
        (2, "job.running", 1),
        (3, "job.succeeded", 1),
    ]
    assert events[2].payload == {"artifact": "sha256:a"}


@pytest.mark.parametrize("end", [State.SUCCEEDED, State.FAILED, State.CANCELED, State.EXPIRED])
def test_nothing_moves_a_job_that_has_ended(start, publish, write, read, end):
    job = start()
    if end is State.SUCCEEDED:
        ended = publish(job)
    elif end is State.CANCELED:
        write(jobs.request_cancel, job.id)
        ended = write(jobs.transition, job.id, epoch=1, to=end)
    else:
        ended = write(jobs.transition, job.id, epoch=1, to=end, error=ERROR)

    for to in State:
        with pytest.raises(IllegalTransition, match=f"is {end}"):
            write(jobs.transition, job.id, epoch=1, to=to)
    assert read(jobs.get_job, job.id) == ended


def test_an_epoch_that_has_passed_moves_nothing(start, write, read):
    job = start()
    released = write(jobs.release, job.id, 1)

    with pytest.raises(IllegalTransition, match="epoch 1 has passed"):
        write(jobs.transition, job.id, epoch=1, to=State.FAILED, error=ERROR)
    assert read(jobs.get_job, job.id) == released


def test_a_move_can_be_narrowed_further(start, write):
    job = start()

    with pytest.raises(IllegalTransition):
        write(jobs.transition, job.id, epoch=1, to=State.FAILED, from_={State.CANCELING}, error=ERROR)


def test_a_refused_move_leaves_no_event(start, write, read):
    job = start()
    before = read(list_events, job.id, 0, 10)

    with pytest.raises(IllegalTransition):
        write(jobs.transition, job.id, epoch=7, to=State.FAILED, error=ERROR)
    assert read(list_events, job.id, 0, 10) == before


def test_moving_a_job_that_does_not_exist_is_not_found(write):
    with pytest.raises(NotFound):
        write(jobs.transition, uuid7(), epoch=0, to=State.RUNNING)


def test_a_failed_job_keeps_its_error_in_the_row_and_in_the_event(start, write, read):
    error = describe(ParamsRejected("no", errors=[{"pointer": "/params/type", "code": "enum", "message": "no"}]))
    job = start()

    failed = write(jobs.transition, job.id, epoch=1, to=State.FAILED, error=error)

    assert failed.error == error
    assert read(list_events, job.id, 2, 1)[0].payload == {"error": error}


def test_an_error_that_quotes_a_hostile_name_can_still_be_kept(start, write):
    job = start()

    failed = write(jobs.transition, job.id, epoch=1, to=State.FAILED, error={"detail": "tensor 'a\0b\ud800'"})

    assert failed.error == {"detail": "tensor 'a\ufffdb?'"}


@pytest.mark.parametrize(
    ("to", "columns"),
    [
        (State.FAILED, {}),  # without an error
        (State.SUCCEEDED, {}),  # without an artifact
        (State.EXPIRED, {"ended_at": None}),
        (State.CANCELING, {"lease_owner": None}),
        (State.QUEUED, {"phase": "quantize"}),
    ],
)
def test_the_database_refuses_a_row_that_contradicts_itself(start, write, to, columns):
    job = start()

    with pytest.raises(IntegrityError):
        write(jobs.transition, job.id, epoch=1, to=to, **columns)


def test_what_a_reader_can_see_changes_the_etag(submit, write, read):
    job = submit()
    seen = [job.etag]

    def note():
        seen.append(read(jobs.get_job, job.id).etag)

    write(jobs.mark_dispatched, job.id, 0, "cpu")
    note()
    write(jobs.claim, job.id, 1, "w1", 60)
    note()
    write(jobs.record_progress, job.id, 1, Phase.QUANTIZE, Progress(1, 2), event=False)
    note()
    write(jobs.record_source, job.id, 1, "sha256:s")
    note()
    write(jobs.release, job.id, 1)
    note()

    assert len(set(seen)) == len(seen)


def test_renewing_a_lease_changes_nothing_a_reader_can_see(start, write, read):
    job = start()

    write(jobs.renew_lease, job.id, 1, "w1", 60)

    assert read(jobs.get_job, job.id) == job


# What users do


def test_a_queued_job_is_canceled_at_once_and_never_claimed(submit, write):
    job = submit()
    epoch = write(jobs.mark_dispatched, job.id, 0, "cpu")

    canceled = write(jobs.request_cancel, job.id)

    assert canceled.state is State.CANCELED
    assert canceled.cancel_requested_at == canceled.ended_at
    assert write(jobs.claim, job.id, epoch, "w1", 60) is None


def test_canceling_twice_is_canceling_once(start, write):
    job = start()

    first = write(jobs.request_cancel, job.id)
    second = write(jobs.request_cancel, job.id)

    assert first.state is State.CANCELING
    assert second == first


def test_a_job_that_is_being_canceled_can_still_succeed(start, publish, write):
    job = start()
    write(jobs.request_cancel, job.id)

    assert publish(job).state is State.SUCCEEDED


def test_a_job_that_succeeded_cannot_be_canceled(start, publish, write):
    job = start()
    publish(job)

    with pytest.raises(IllegalTransition, match="succeeded"):
        write(jobs.request_cancel, job.id)


def test_canceling_a_job_that_does_not_exist_is_not_found(write):
    with pytest.raises(NotFound):
        write(jobs.request_cancel, uuid7())


# What workers do


def test_a_claimed_job_has_a_lease_an_attempt_and_a_deadline(start, write):
    job = start(timeout_seconds=100)

    (attempt,) = job.attempts
    assert (job.state, job.epoch) == (State.RUNNING, 1)
    assert (attempt.epoch, attempt.worker, attempt.ended_at) == (1, "w1", None)
    assert abs(job.deadline_at - job.started_at - timedelta(seconds=100)) < timedelta(seconds=1)
    assert write(jobs.renew_lease, job.id, 1, "w1", 60) is State.RUNNING


def test_a_message_is_good_for_one_claim(start, write):
    job = start()

    assert write(jobs.claim, job.id, 1, "w2", 60) is None


def test_a_claim_of_a_job_that_does_not_exist_gets_nothing(write):
    assert write(jobs.claim, uuid7(), 1, "w1", 60) is None


@pytest.mark.parametrize(("epoch", "worker"), [(1, "w2"), (0, "w1"), (2, "w1")])
def test_a_lease_is_renewed_by_its_owner_at_its_epoch_only(start, write, epoch, worker):
    job = start()

    assert write(jobs.renew_lease, job.id, epoch, worker, 60) is None


def test_the_owner_of_a_lease_learns_that_the_job_is_to_be_canceled(start, write):
    job = start()
    write(jobs.request_cancel, job.id)

    assert write(jobs.renew_lease, job.id, 1, "w1", 60) is State.CANCELING


def test_progress_is_shown_with_an_event_where_wanted(start, write, read):
    job = start()

    write(jobs.record_progress, job.id, 1, Phase.EXPORT, None, event=True)
    write(jobs.record_progress, job.id, 1, Phase.QUANTIZE, Progress(3, 9, "block.2"), event=False)
    write(jobs.record_progress, job.id, 1, Phase.QUANTIZE, Progress(4, 9, "block.3"), event=True)

    shown = read(jobs.get_job, job.id)
    assert (shown.phase, shown.progress) == (Phase.QUANTIZE, Progress(4, 9, "block.3"))
    assert [(event.type, event.payload) for event in read(list_events, job.id, 2, 10)] == [
        ("job.phase", {"phase": "export"}),
        ("job.progress", {"phase": "quantize", "done": 4, "total": 9, "message": "block.3"}),
    ]


def test_progress_ends_with_the_lease(start, write):
    job = start()
    write(jobs.record_progress, job.id, 1, Phase.QUANTIZE, Progress(3, 9), event=False)

    released = write(jobs.release, job.id, 1)

    assert (released.phase, released.progress) == (None, None)


def test_a_phase_of_a_newer_version_does_not_hide_the_job(start, write, read):
    job = start()
    write(lambda tx: tx.execute(tables.job.update().values(phase="distill")))

    assert read(jobs.get_job, job.id).phase is None


def test_a_settled_plan_takes_the_place_of_the_open_one_and_an_event_says_what_it_comes_to(start, write, read):
    job = start(plan={"tensors": []})
    row = {"name": "a", "shape": [1, 32], "source_dtype": "F32", "action": "quantize", "scheme": "Q8_0", "output": "a"}
    plan = {
        "tensors": [{**row, "nbytes": 34, "reason": "measured", "block_slack": 1.0}],
        "units": [{"key": "a", "tensors": ["a"]}],
        "peak_memory_bytes": 34,
        "warnings": [],
        "limit_bytes": 40,
        "predicted_loss": 0.5,
    }

    assert write(jobs.settle_plan, job.id, 1, plan)

    after = read(jobs.get_job, job.id)
    assert after.plan == plan
    assert after.row_version > job.row_version
    event = read(list_events, job.id, 0, 100)[-1]
    assert event.type == "job.plan_settled"
    assert event.payload == {"nbytes": 34, "limit_bytes": 40, "bits_per_weight": 8.5, "predicted_loss": 0.5}


def test_a_worker_that_lost_its_job_settles_no_plan(start, write, read):
    job = start()
    write(jobs.release, job.id, 1)

    assert not write(jobs.settle_plan, job.id, 1, {"tensors": []})
    assert read(jobs.get_job, job.id).plan == job.plan


def test_a_source_that_changes_between_attempts_is_refused(start, write):
    job = start()
    assert write(jobs.record_source, job.id, 1, "sha256:one")
    assert write(jobs.record_source, job.id, 1, "sha256:one")

    with pytest.raises(SourceRejected, match="changed"):
        write(jobs.record_source, job.id, 1, "sha256:two")
    assert not write(jobs.record_source, job.id, 0, "sha256:two")


def test_a_released_job_waits_for_a_new_dispatch_at_a_new_epoch(start, write, read):
    job = start()

    released = write(jobs.release, job.id, 1)

    assert (released.state, released.epoch) == (State.QUEUED, 2)
    assert released.attempts[0].outcome is Outcome.RELEASED
    assert [(each.epoch, each.redispatch) for each in read(jobs.dispatchable, 30, 10, needs=ANY)] == [(2, False)]


def test_a_job_that_is_being_canceled_is_not_released(start, write):
    job = start()
    write(jobs.request_cancel, job.id)

    with pytest.raises(IllegalTransition):
        write(jobs.release, job.id, 1)


def test_an_attempt_keeps_how_it_ended_whoever_comes_later(start, let_pass, write, read):
    job = start()
    let_pass(job.id, "lease_expires_at")
    write(jobs.reap, max_attempts=5, backoff_seconds=0)

    write(jobs.end_attempt, job.id, 1, Outcome.SUCCEEDED, exit_code=0)

    (attempt,) = read(jobs.get_job, job.id).attempts
    assert (attempt.outcome, attempt.exit_code) == (Outcome.LOST, None)


def test_numbers_can_be_added_to_an_attempt_that_the_move_has_closed(start, write, read):
    job = start()
    write(jobs.transition, job.id, epoch=1, to=State.FAILED, error=ERROR)

    write(jobs.end_attempt, job.id, 1, Outcome.FAILED, exit_code=1, signal=9, peak_memory_bytes=2**40)

    (attempt,) = read(jobs.get_job, job.id).attempts
    assert (attempt.outcome, attempt.exit_code, attempt.signal) == (Outcome.FAILED, 1, 9)
    assert attempt.peak_memory_bytes == 2**40


# What the scheduler does


def test_jobs_are_dispatched_oldest_first_and_each_epoch_once(submit, write, read):
    first, second = submit(), submit()

    assert [each.job_id for each in read(jobs.dispatchable, 30, 10, needs=ANY)] == [first.id, second.id]
    assert write(jobs.mark_dispatched, first.id, 0, "cpu") == 1
    assert write(jobs.mark_dispatched, first.id, 0, "cpu") is None
    assert [each.job_id for each in read(jobs.dispatchable, 30, 10, needs=ANY)] == [second.id]


def test_a_message_that_nobody_took_is_sent_again_at_the_same_epoch(submit, write, read):
    job = submit()
    write(jobs.mark_dispatched, job.id, 0, "cpu")

    (again,) = read(jobs.dispatchable, 0, 10, needs=ANY)

    assert (again.epoch, again.queue, again.redispatch) == (1, "cpu", True)
    assert write(jobs.mark_dispatched, job.id, 1, "cpu") == 1


def test_a_lost_message_is_sent_again_also_when_no_slot_is_free(submit, write, read):
    told, waiting = submit(), submit()
    write(jobs.mark_dispatched, told.id, 0, "cpu")

    assert [each.job_id for each in read(jobs.dispatchable, 0, 0, needs=ANY)] == [told.id]
    assert [each.job_id for each in read(jobs.dispatchable, 0, 1, needs=ANY)] == [told.id, waiting.id]


def test_only_jobs_with_the_asked_needs_are_dispatched(submit, read):
    submit(need='{"method":"hqq"}')
    job = submit(need='{"method":"gguf"}')

    assert [each.job_id for each in read(jobs.dispatchable, 30, 1, needs=['{"method":"gguf"}'])] == [job.id]
    assert read(jobs.dispatchable, 30, 1, needs=[]) == []


def test_why_jobs_wait_is_written_once_beside_those_that_wait_for_it(submit, write, read):
    waiting, other, told = submit(need='{"a":1}'), submit(), submit(need='{"a":1}')
    write(jobs.mark_dispatched, told.id, 0, "cpu")
    nobody = Waiting("no_eligible_worker", ("no worker is running",))

    write(jobs.note_waiting, '{"a":1}', nobody)
    write(jobs.note_waiting, '{"a":1}', nobody)

    assert [read(jobs.get_job, job.id).waiting for job in (waiting, other, told)] == [nobody, None, None]
    assert [event.type for event in read(list_events, waiting.id, 0, 9)] == ["job.queued", "job.waiting"]
    assert read(jobs.count_waiting) == {"no_eligible_worker": 1}
    write(jobs.note_waiting, '{"a":1}', None)
    assert read(jobs.get_job, waiting.id).waiting is None
    assert len(read(list_events, waiting.id, 0, 9)) == 2


@pytest.mark.parametrize("leave", [lambda write, job: write(jobs.request_cancel, job.id),
                                   lambda write, job: write(jobs.mark_dispatched, job.id, 0, "cpu")])  # fmt: skip
def test_a_job_that_leaves_the_queue_waits_for_nothing(submit, write, read, leave):
    job = submit()
    write(jobs.note_waiting, "{}", Waiting("waiting_capacity"))

    leave(write, job)

    assert read(jobs.get_job, job.id).waiting is None


def test_a_declined_job_waits_for_its_first_message_again(submit, write, read):
    job = submit()
    write(jobs.mark_dispatched, job.id, 0, "cpu")

    assert not write(jobs.decline, job.id, 0)  # of a message from before
    assert write(jobs.decline, job.id, 1)

    (due,) = read(jobs.dispatchable, 30, 1, needs=ANY)
    assert (due.epoch, due.redispatch) == (1, False)
    assert read(jobs.outstanding) == {}


def test_a_running_job_is_not_declined(start, write):
    assert not write(jobs.decline, start().id, 1)


def test_jobs_count_as_outstanding_from_their_dispatch_to_their_end(submit, start, write, read):
    submit()
    job = start()
    dispatched = submit()
    write(jobs.mark_dispatched, dispatched.id, 0, "cpu")

    assert read(jobs.outstanding) == {"cpu": 2}
    write(jobs.request_cancel, job.id)
    assert read(jobs.outstanding) == {"cpu": 2}
    write(jobs.transition, job.id, epoch=1, to=State.CANCELED)
    assert read(jobs.outstanding) == {"cpu": 1}


def test_jobs_are_counted_by_state(submit, start, read):
    submit(), submit(), start()

    assert read(jobs.count_jobs) == {State.QUEUED: 2, State.RUNNING: 1}


def test_a_job_whose_worker_was_lost_goes_back_after_a_pause_that_doubles(start, let_pass, write):
    job = start()
    pauses = []
    for epoch in (1, 3, 5):
        let_pass(job.id, "lease_expires_at")
        (lost,) = write(jobs.reap, max_attempts=9, backoff_seconds=10)
        assert (lost.state, lost.epoch) == (State.QUEUED, epoch + 1)
        assert write(jobs.dispatchable, 30, 10, needs=ANY) == []  # not before the pause is over
        event = write(list_events, job.id, 0, 100)[-1]
        pauses.append(event.payload["backoff_seconds"])
        assert event.payload["reason"] == "the lease of worker w1 ran out"
        let_pass(job.id, "not_before")
        (due,) = write(jobs.dispatchable, 30, 10, needs=ANY)
        epoch = write(jobs.mark_dispatched, job.id, due.epoch, "cpu")
        write(jobs.claim, job.id, epoch, "w1", 60)

    assert pauses == [10, 20, 40]


def test_a_job_that_lost_too_many_workers_has_failed(start, let_pass, write):
    job = start()
    let_pass(job.id, "lease_expires_at")
    write(jobs.reap, max_attempts=2, backoff_seconds=0)
    epoch = write(jobs.mark_dispatched, job.id, 2, "cpu")
    write(jobs.claim, job.id, epoch, "w2", 60)
    let_pass(job.id, "lease_expires_at")

    (failed,) = write(jobs.reap, max_attempts=2, backoff_seconds=0)

    assert failed.state is State.FAILED
    assert failed.error["kind"] == "infrastructure"
    assert failed.error["detail"] == "the job was lost 2 times; the last time the lease of worker w2 ran out"
    assert [attempt.outcome for attempt in failed.attempts] == [Outcome.LOST, Outcome.LOST]


def test_releases_do_not_count_as_losses(start, let_pass, write):
    job = start()
    for epoch in (1, 3, 5):
        write(jobs.release, job.id, epoch)
        write(jobs.mark_dispatched, job.id, epoch + 1, "cpu")
        write(jobs.claim, job.id, epoch + 2, "w1", 60)
    let_pass(job.id, "lease_expires_at")

    (lost,) = write(jobs.reap, max_attempts=2, backoff_seconds=0)

    assert lost.state is State.QUEUED


def test_a_lost_job_that_was_to_be_canceled_is(start, let_pass, write):
    job = start()
    write(jobs.request_cancel, job.id)
    let_pass(job.id, "lease_expires_at")

    (canceled,) = write(jobs.reap, max_attempts=5, backoff_seconds=0)

    assert canceled.state is State.CANCELED
    assert canceled.attempts[0].outcome is Outcome.LOST


def test_a_worker_can_give_up_a_job_whose_runner_died(start, write):
    job = start()

    lost = write(jobs.lose, job.id, 1, reason="the runner was killed", signal=9, max_attempts=5, backoff_seconds=0)

    assert (lost.state, lost.epoch) == (State.QUEUED, 2)
    assert (lost.attempts[0].outcome, lost.attempts[0].signal) == (Outcome.LOST, 9)


def test_a_job_is_not_lost_twice(start, write, read):
    job = start()
    write(jobs.lose, job.id, 1, reason="the runner was killed", max_attempts=5, backoff_seconds=0)
    before = read(jobs.get_job, job.id)

    with pytest.raises(IllegalTransition):
        write(jobs.lose, job.id, 1, reason="again", max_attempts=5, backoff_seconds=0)
    assert read(jobs.get_job, job.id) == before


def test_a_job_past_its_deadline_has_expired_though_its_worker_is_alive(start, let_pass, write):
    job = start()
    let_pass(job.id, "deadline_at")

    (expired,) = write(jobs.reap, max_attempts=5, backoff_seconds=0)

    assert expired.state is State.EXPIRED
    assert expired.error["kind"] == "resource"
    assert expired.attempts[0].outcome is Outcome.EXPIRED
    assert write(jobs.renew_lease, job.id, 1, "w1", 60) is None


def test_a_job_that_is_alive_is_not_reaped(submit, start, write):
    submit(), start()

    assert write(jobs.reap, max_attempts=5, backoff_seconds=0) == []


def test_deadlines_count_from_the_first_claim(start, write):
    job = start()
    write(jobs.release, job.id, 1)
    write(jobs.mark_dispatched, job.id, 2, "cpu")

    again = write(jobs.claim, job.id, 3, "w2", 60)

    assert (again.deadline_at, again.started_at) == (job.deadline_at, job.started_at)


def test_events_are_paged_by_their_number(start, write, read):
    job = start()
    for done in range(5):
        write(jobs.record_progress, job.id, 1, Phase.QUANTIZE, Progress(done, 5), event=True)

    assert [event.seq for event in read(list_events, job.id, 2, 3)] == [3, 4, 5]
    assert read(list_events, job.id, 7, 3) == []
    assert read(list_events, uuid7(), 0, 3) == []


def test_times_are_the_databases_own_and_in_utc(submit, read, database):
    job = submit()
    clock = {"sqlite": func.strftime("%s", "now"), "postgresql": func.extract("epoch", func.now())}
    now = read(lambda tx: tx.execute(select(clock[database.engine.dialect.name])).scalar_one())

    assert job.created_at.utcoffset() == timedelta(0)
    assert abs(job.created_at.timestamp() - float(now)) < 5

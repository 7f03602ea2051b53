"""The supervisor: claims an attempt, keeps its lease, listens to its runner, and writes down how it ended.

Everything it writes is guarded by the attempt's epoch. When the lease is lost it writes nothing more: another attempt
has taken over, and what this one made is only wasted work.
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog

from quantmill.contract.errors import (
    Canceled,
    IllegalTransition,
    NotFound,
    QuantmillError,
    ResourceExhausted,
    describe,
)
from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import Metric
from quantmill.domain.escalation import Step, refusal_of
from quantmill.domain.gates import GateVerdict, judge
from quantmill.domain.jobs import FINAL, Job, Outcome, Phase, Progress, State
from quantmill.files.artifacts import EarlyDigests
from quantmill.files.blobs import BlobStore
from quantmill.hardware.routing import WorkerNeed
from quantmill.services import Services
from quantmill.store import gates, jobs, units
from quantmill.worker.capacity import Capacity
from quantmill.worker.child import Child, Ended
from quantmill.worker.escalate import next_after
from quantmill.worker.lease import Lease
from quantmill.worker.messages import (
    Cancel,
    Failed,
    Finished,
    FinishedUnit,
    Message,
    PlanSettled,
    Progressed,
    SourceKnown,
    Start,
    UnitFinished,
    carry_store,
)
from quantmill.worker.publish import metrics_of, publish, size_of

log = structlog.get_logger()

POLL_SECONDS = 0.1  # how soon a lost lease, a cancellation or a shutdown is noticed
PROGRESS_SECONDS = 0.5  # progress is written at most this often
MEMORY_SECONDS = 1.0  # resident memory is looked at this often
UNITS = "units"  # in a job's staging folder
CANCELED = describe(Canceled(""))["type"]


class LeaseLost(Exception):
    """The job moved on without this attempt."""


class ShuttingDown(Exception):
    """This worker was asked to stop; the job goes back to the queue."""


@dataclass
class Attempt:
    """One attempt while it runs: what is known of it and when things were last done."""

    job: Job
    child: Child
    lease: Lease
    export_folder: Path
    progress_written: float = 0.0
    memory_checked: float = 0.0
    cancel_steps: list[tuple[float, signal.Signals]] | None = None
    phase: Phase | None = None
    carry: str | None = None  # digest of the hidden states behind the newest block
    digests: EarlyDigests | None = None  # of the artifact's files, from the time that they are complete


class Supervisor:
    """Runs attempts for one worker; with several slots `run_attempt` is called from several threads."""

    def __init__(self, services: Services, capacity: Capacity) -> None:
        self._services = services
        self._capacity = capacity
        self._worker = capacity.name
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Hand every running job back to the queue; its finished units are kept."""
        self._stopping.set()

    def run_attempt(self, job_id: UUID, epoch: int) -> bool:
        """Claim (job, epoch) and see it through; whether it was claimed. Does nothing when somebody else was faster or
        the job has moved on; a job that this worker cannot run, or not now, goes back to the scheduler unclaimed."""
        if self._stopping.is_set():
            return False
        try:
            with self._services.database.read() as tx:
                need = WorkerNeed.of_text(jobs.get_job(tx, job_id).need)
        except NotFound:
            return False
        with (
            structlog.contextvars.bound_contextvars(job_id=str(job_id), epoch=epoch),
            self._capacity.promised(need) as unmet,
        ):
            if unmet:
                self._decline(job_id, epoch, unmet)
                return False
            if (job := self._claim(job_id, epoch)) is None:
                return False
            self._hold(job)
            return True

    def _claim(self, job_id: UUID, epoch: int) -> Job | None:
        with self._services.database.write() as tx:
            return jobs.claim(tx, job_id, epoch, self._worker, self._services.settings.lease_seconds)

    def _decline(self, job_id: UUID, epoch: int, unmet: Sequence[str]) -> None:
        """Tell the scheduler what there is here now, so that it does not send the job again at once."""
        log.info("declined", unmet=list(unmet))
        self._capacity.beat()
        with self._services.database.write() as tx:
            jobs.decline(tx, job_id, epoch)

    def _hold(self, job: Job) -> None:
        folder = self._services.settings.staging_dir / str(job.id)
        attempt_folder = folder / str(job.epoch)
        try:
            attempt_folder.mkdir(parents=True, exist_ok=True)
            with Lease(self._services, job.id, job.epoch, self._worker) as lease:
                self._run_child(job, lease, folder, attempt_folder)
        except LeaseLost:
            log.warning("lease_lost")
        except ShuttingDown:
            with self._services.database.write() as tx:
                jobs.release(tx, job.id, job.epoch)
        except IllegalTransition:
            log.warning("fenced")  # canceled, expired or taken over in the very moment of the write
        finally:
            shutil.rmtree(attempt_folder, ignore_errors=True)
        self._remove_staging_when_over(job.id, folder)

    def _run_child(self, job: Job, lease: Lease, folder: Path, attempt_folder: Path) -> None:
        """A runner for the job; another one for each step that it escalates by."""
        step: Job | None = job
        while step is not None:
            work = attempt_folder / str(len(step.steps))
            work.mkdir()
            child = Child()
            attempt = Attempt(step, child, lease, work / "artifact")
            try:
                start = self._start_message(step, folder, attempt.export_folder)
                attempt.carry = newest_carry(start)
                child.send(start)
                step = self._settle(attempt, self._follow(attempt))
            finally:
                child.close()
                if attempt.digests is not None:
                    attempt.digests.close()
                shutil.rmtree(work, ignore_errors=True)

    def _start_message(self, job: Job, folder: Path, export_folder: Path) -> Start:
        text = job.request.evaluation_text
        return Start(
            source=Path(job.request.source),
            method=job.request.method,
            params=dict(job.request.params),
            seed=job.request.seed,
            threads=self._services.settings.threads,
            device=self._services.settings.device,
            plan=dict(job.plan),
            source_digest=job.source_digest,
            evaluation_text=Path(text) if text else None,
            evaluation=job.request.evaluation,
            calibration=job.request.calibration,
            statistics_cache=self._services.settings.statistics_cache_dir,
            statistics_cache_bytes=self._services.settings.statistics_cache_bytes,
            evaluation_cache=self._services.settings.evaluation_cache_dir,
            evaluation_cache_bytes=self._services.settings.evaluation_cache_bytes,
            memory_bytes=self._services.settings.runner_memory_bytes,
            unit_store=folder / UNITS,
            export_folder=export_folder,
            finished=self._recorded_units(job.id),
        )

    def _recorded_units(self, job_id: UUID) -> tuple[FinishedUnit, ...]:
        """The units of earlier attempts; the runner looks whether their bytes are still what was recorded."""
        with self._services.database.read() as tx:
            recorded = units.finished_units(tx, job_id)
        return tuple(FinishedUnit(**vars(unit)) for unit in recorded)

    # While the runner works

    def _follow(self, attempt: Attempt) -> Finished | Failed | Ended:
        """Listen until the runner gives a result or ends; between messages, look after the attempt's limits."""
        while True:
            message = attempt.child.receive(POLL_SECONDS)
            if attempt.lease.lost.is_set():
                raise LeaseLost
            if self._stopping.is_set() and not isinstance(message, Finished | Failed):
                raise ShuttingDown
            if isinstance(message, Finished | Failed | Ended):
                return message
            if message is not None:
                self._note(attempt, message)
            self._press_cancel(attempt)
            if (failed := self._check_memory(attempt)) is not None:
                return failed

    def _note(self, attempt: Attempt, message: Message) -> None:
        job = attempt.job
        match message:
            case UnitFinished(unit=unit):
                with self._services.database.write() as tx:
                    findings = unit.findings.model_dump(mode="json", exclude_defaults=True)
                    done = units.FinishedUnit(unit.key, unit.digest, unit.size, unit.carry, findings)
                    kept = units.finish_unit(tx, job.id, job.epoch, done, self._worker)
                if not kept:
                    raise LeaseLost
                self._drop_carry(attempt, unit)
            case SourceKnown(digest=digest):
                with self._services.database.write() as tx:
                    jobs.record_source(tx, job.id, job.epoch, digest)
            case PlanSettled(plan=plan):
                with self._services.database.write() as tx:
                    kept = jobs.settle_plan(tx, job.id, job.epoch, plan)
                if not kept:
                    raise LeaseLost
            case Progressed():
                self._note_progress(attempt, message)

    def _drop_carry(self, attempt: Attempt, unit: FinishedUnit) -> None:
        """The hidden states before a block are of no use once those behind it are known."""
        if unit.carry is None:
            return
        if attempt.carry is not None and attempt.carry != unit.carry:
            unit_store = self._services.settings.staging_dir / str(attempt.job.id) / UNITS
            BlobStore(carry_store(unit_store)).delete(attempt.carry)
        attempt.carry = unit.carry

    def _note_progress(self, attempt: Attempt, message: Progressed) -> None:
        """Write a new phase at once, and progress within one at a bearable rate."""
        now = time.monotonic()
        new_phase = message.phase is not attempt.phase
        if not new_phase and now - attempt.progress_written < PROGRESS_SECONDS:
            return
        attempt.phase, attempt.progress_written = message.phase, now
        if message.phase is Phase.VERIFY and attempt.digests is None:
            attempt.digests = EarlyDigests(attempt.export_folder)
        progress = Progress(message.done, message.total, message.message) if message.total else None
        with self._services.database.write() as tx:
            jobs.record_progress(tx, attempt.job.id, attempt.job.epoch, message.phase, progress, event=True)

    def _press_cancel(self, attempt: Attempt) -> None:
        """Ask the runner to stop at its next unit; after a grace terminate its process group, then kill it."""
        if not attempt.lease.canceling.is_set():
            return
        now = time.monotonic()
        if attempt.cancel_steps is None:
            grace = self._services.settings.cancel_grace_seconds
            attempt.cancel_steps = [(now + grace, signal.SIGTERM), (now + 2 * grace, signal.SIGKILL)]
            attempt.child.send(Cancel())
        elif attempt.cancel_steps and now >= attempt.cancel_steps[0][0]:
            attempt.child.signal(attempt.cancel_steps.pop(0)[1])

    def _check_memory(self, attempt: Attempt) -> Failed | None:
        """A failure once the runner holds more memory than this worker allows; closing the child then ends it."""
        limit = self._services.settings.runner_memory_bytes
        now = time.monotonic()
        if limit is None or now - attempt.memory_checked < MEMORY_SECONDS:
            return None
        attempt.memory_checked = now
        resident = attempt.child.resident_bytes()
        if resident > limit:
            error = ResourceExhausted(
                f"the job held {resident} bytes of memory; this worker allows {limit} (QUANTMILL_RUNNER_MEMORY_BYTES)",
                resident_bytes=resident,
                limit_bytes=limit,
            )
            return Failed(error=describe(error), peak_memory_bytes=resident)
        return None

    # When it has ended

    def _settle(self, attempt: Attempt, last: Finished | Failed | Ended) -> Job | None:
        """Write down how the runner ended; the job as it goes on where that is not its end."""
        match last:
            case Finished():
                return self._publish(attempt, last)
            case Failed(error=error, peak_memory_bytes=peak) if error.get("type") == CANCELED:
                self._end(attempt, State.CANCELED, peak_memory_bytes=peak)
            case Failed(error=error, peak_memory_bytes=peak):
                self._end(attempt, State.FAILED, error=error, peak_memory_bytes=peak)
            case Ended() if attempt.lease.canceling.is_set():
                self._end(attempt, State.CANCELED, peak_memory_bytes=last.peak_memory_bytes)
            case Ended():
                self._lose(attempt, last)
        return None

    def _publish(self, attempt: Attempt, result: Finished) -> Job | None:
        """Publish what was made where it meets the job's gates; else escalate, or fail the job and keep what was
        measured.

        A result that cannot be stored (a full disk, say) fails its job too; one that comes too late is fenced.
        """
        job, metrics, peak = attempt.job, metrics_of(result), result.peak_memory_bytes
        verdicts = judge(job.request.gates, metrics)
        try:
            if all(verdict.passed for verdict in verdicts):
                publish(self._services, job, result, attempt.export_folder, verdicts, attempt.digests)
                return None
            missed = Step(job.request.params, size_of(metrics), verdicts)
            if (going_on := self._escalate(job, missed, Plan.from_json(result.plan), metrics)) is not None:
                return going_on
            error: QuantmillError = refusal_of([*job.steps, missed], metrics)
        except IllegalTransition:
            raise
        except QuantmillError as failed:
            error = failed
        if attempt.lease.canceling.is_set():
            self._end(attempt, State.CANCELED, peak_memory_bytes=peak)
        else:
            self._end(attempt, State.FAILED, error=describe(error), peak_memory_bytes=peak, verdicts=verdicts)
        return None

    def _escalate(self, job: Job, missed: Step, plan: Plan, metrics: Sequence[Metric]) -> Job | None:
        """The job with the next rung's parameters, and without the units of this one; None where it cannot go on."""
        method = self._services.plugins.method(job.request.method)
        rung = next_after(job, method, missed.gates, plan, metrics)
        if rung is None:
            return None
        with self._services.database.write() as tx:
            going_on = jobs.escalate(tx, job.id, job.epoch, missed, rung)
        if going_on is not None:
            shutil.rmtree(self._services.settings.staging_dir / str(job.id) / UNITS, ignore_errors=True)
        return going_on

    def _end(
        self,
        attempt: Attempt,
        state: State,
        *,
        peak_memory_bytes: int,
        error: dict[str, Any] | None = None,
        verdicts: Sequence[GateVerdict] = (),
    ) -> None:
        """Close the attempt and move the job to a final state, in one transaction."""
        job = attempt.job
        payload = {"error": error} if error else {}
        with self._services.database.write() as tx:
            jobs.end_attempt(tx, job.id, job.epoch, Outcome(state.value), peak_memory_bytes=peak_memory_bytes)
            gates.record_verdicts(tx, job.id, verdicts)
            jobs.transition(tx, job.id, epoch=job.epoch, to=state, payload=payload, error=error)

    def _lose(self, attempt: Attempt, ended: Ended) -> None:
        """The runner died without a word: back to the queue, or failed when it has done so too often."""
        settings = self._services.settings
        with self._services.database.write() as tx:
            jobs.lose(
                tx,
                attempt.job.id,
                attempt.job.epoch,
                reason=ended.reason,
                exit_code=ended.exit_code,
                signal=ended.signal,
                peak_memory_bytes=ended.peak_memory_bytes,
                max_attempts=settings.max_attempts,
                backoff_seconds=settings.retry_backoff_seconds,
            )

    def _remove_staging_when_over(self, job_id: UUID, folder: Path) -> None:
        with self._services.database.write() as tx:
            over = jobs.get_job(tx, job_id).state in FINAL
            if over:
                units.forget_units(tx, job_id)
        if over:
            shutil.rmtree(folder, ignore_errors=True)


def newest_carry(start: Start) -> str | None:
    """The one that is still there: others were removed when the next one was known."""
    store = BlobStore(start.carry_store)
    return next((unit.carry for unit in start.finished if unit.carry is not None and store.exists(unit.carry)), None)

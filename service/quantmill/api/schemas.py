"""What the API takes and shows. Bodies refuse unknown keys; views are built by `of` from domain values."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, TypeVar, get_args
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from quantmill.contract.calibration import calibration_cost
from quantmill.contract.tensors import Plan
from quantmill.domain.artifacts import Artifact, ArtifactFile, Lineage, Metric
from quantmill.domain.calibration import CalibrationOptions
from quantmill.domain.comparisons import Comparison, ComparisonRequest, Variant, VariantRequest
from quantmill.domain.escalation import Escalation, Step
from quantmill.domain.estimates import Estimate
from quantmill.domain.evaluation import EvaluationOptions
from quantmill.domain.gates import GateVerdict
from quantmill.domain.jobs import FINAL, Attempt, Event, Job, JobRequest, Outcome, Progress, State

if TYPE_CHECKING:  # the client shares these schemas, and needs neither plugins nor a database
    from quantmill.contract.facts import Measured
    from quantmill.hardware.memory import Placement
    from quantmill.hardware.profiles import Device
    from quantmill.hardware.recommend import Answer, Recommendation
    from quantmill.hardware.routing import Route
    from quantmill.jobs.autoscaling import QueueLoad
    from quantmill.jobs.installation import WorkerRow
    from quantmill.jobs.plan import Planned
    from quantmill.jobs.texts import RegisteredText
    from quantmill.plugins import Plugins

LARGEST_INTEGER = 2**53 - 1  # beyond it JSON numbers are not exact (RFC 8785)
LARGEST_WINDOW = 2**31 - 1
DEEPEST_JSON = 16


def printable(text: str) -> str:
    """Refuse what a database or UTF-8 cannot hold: NUL and lone surrogates."""
    if "\0" in text:
        raise ValueError("must not contain NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, without lone surrogates") from None
    return text


def storable(value: Any, depth: int = 0) -> Any:
    """Refuse JSON that has no canonical form: non-finite or inexact numbers, bad text, deep nesting."""
    if depth > DEEPEST_JSON:
        raise ValueError(f"must not be nested deeper than {DEEPEST_JSON} levels")
    if isinstance(value, str):
        printable(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not contain NaN or infinite numbers")
    elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise ValueError(f"must not contain integers beyond {LARGEST_INTEGER}")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            printable(key)
            storable(item, depth + 1)
    elif isinstance(value, Sequence):
        for item in value:
            storable(item, depth + 1)
    return value


Text = Annotated[str, AfterValidator(printable)]
Uri = Annotated[Text, Field(min_length=1, max_length=4096)]
MethodName = Annotated[Text, Field(min_length=1, max_length=64)]
Params = Annotated[dict[str, Any], AfterValidator(storable), Field(json_schema_extra={"additionalProperties": True})]
Labels = Annotated[
    dict[Annotated[Text, Field(min_length=1, max_length=63)], Annotated[Text, Field(max_length=255)]],
    Field(max_length=32),
]
GateText = Annotated[Text, Field(min_length=1, max_length=200, examples=["kld.mean <= 0.05"])]
Gates = Annotated[tuple[GateText, ...], Field(max_length=32)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", examples=["sha256:" + "0" * 64])]


class Evaluation(BaseModel):
    """How an artifact is measured on its text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int | None = Field(
        default=None, ge=2, le=LARGEST_WINDOW, description="tokens seen at once; by default 512 or the model's limit"
    )
    stride: int | None = Field(
        default=None, ge=1, le=LARGEST_WINDOW, description="from one window to the next; by default no overlap"
    )
    device: Annotated[Text, Field(max_length=32, examples=["cpu", "cuda"])] = Field(
        default="cpu", description="where models run"
    )
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="what they compute in")
    prompts: int = Field(default=16, ge=0, le=1024, description="texts that both models continue greedily; 0: none")
    context: int | None = Field(
        default=None, ge=1, le=100_000_000, description="tokens that the predicted memory is for"
    )
    speed: bool = Field(default=True, description="time the artifact in its runtime, where that is installed")
    tasks: Annotated[tuple[Annotated[Text, Field(min_length=1, max_length=100)], ...], Field(max_length=32)] = Field(
        default=(), description="lm-eval's tasks by name, where the worker has the extra lm-eval"
    )
    task_documents: int | None = Field(default=None, ge=1, le=10_000_000, description="of each task; by default all")


class CalibrationBody(BaseModel):
    """The text that a method is calibrated on, and which of its tokens a model sees."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: Uri = Field(description='a UTF-8 text, or .jsonl with a "text" or "messages" on each line')
    samples: int = Field(default=128, ge=1, le=1_000_000, description="windows, chosen by the seed if there are more")
    window: int | None = Field(
        default=None, ge=2, le=LARGEST_WINDOW, description="tokens of a window; by default 512 or the model's limit"
    )
    seed: int = Field(default=0, ge=0, le=LARGEST_INTEGER)
    packing: Literal["packed", "documents"] = Field(
        default="packed", description="documents one after the other, or the beginning of each a window"
    )
    truncate: Literal["end", "start"] = Field(default="end", description="which end of a long document goes")
    least_expert_tokens: int = Field(
        default=32, ge=0, le=LARGEST_INTEGER, description="an expert that was sent fewer is starved"
    )
    starved_experts: Literal["report", "all_tokens"] = Field(
        default="report", description="say which those are, or feed them every token"
    )


SUBMIT_EXAMPLE: dict[str, Any] = {
    "source": "/models/millstone-4m",
    "method": "gguf",
    "params": {"type": "Q4_K_M"},
    "evaluation_text": "/models/text/evaluation.txt",
    "labels": {"team": "search"},
}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class View(BaseModel):
    model_config = ConfigDict(frozen=True)


class SubmitPlan(Body):
    """A dry run: which method to plan for which source."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{key: SUBMIT_EXAMPLE[key] for key in ("source", "method", "params")}]},
    )

    source: Uri = Field(description="checkpoint folder: a path or a file:// URI below one of the source roots")
    method: MethodName = Field(description="one of GET /v1/methods")
    params: Params = Field(default_factory=dict, description="what the method's params_schema accepts; no other keys")


class EscalationBody(Body):
    """Leave to go on with larger parameters while gates are missed: up the method's ladder, or for the worst blocks."""

    attempts: int = Field(ge=2, le=16, description="at most this many, the first included")
    size_mb: float | None = Field(default=None, gt=0, le=1e9, description="none planned for more, in 10^6 bytes")
    by: Literal["ladder", "blocks"] = Field(
        default="ladder", description="what grows: all of it, or the blocks that add most to the output's error"
    )


class SubmitJob(SubmitPlan):
    """A compression job."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [SUBMIT_EXAMPLE]})

    evaluation_text: Uri | None = Field(default=None, description="UTF-8 text to measure perplexity on")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="what is measured on it, and how")
    seed: int = Field(default=0, ge=0, le=LARGEST_INTEGER)
    timeout_seconds: int | None = Field(default=None, ge=1, le=31_536_000, description="running longer expires the job")
    labels: Labels = Field(default_factory=dict, description="yours; list jobs by them")
    gates: Gates = Field(default=(), description="what the artifact must meet, or the job fails and publishes nothing")
    escalation: EscalationBody | None = Field(default=None, description="larger parameters until the gates are met")
    calibration: CalibrationBody | None = Field(default=None, description="for methods that are calibrated")

    def to_request(self) -> JobRequest:
        given = {
            "calibration": _calibration(self.calibration),
            "evaluation": EvaluationOptions(**dict(self.evaluation)),
            "escalation": _escalation(self.escalation),
        }
        return JobRequest(**dict(self) | given)


def _calibration(body: CalibrationBody | None) -> CalibrationOptions | None:
    return None if body is None else CalibrationOptions(**dict(body))


def _escalation(body: EscalationBody | None) -> Escalation | None:
    return None if body is None else Escalation(**dict(body))


class SubmitVariant(Body):
    """One way to compress the source of a comparison."""

    method: MethodName = Field(description="one of GET /v1/methods")
    params: Params = Field(default_factory=dict, description="what the method's params_schema accepts; no other keys")


COMPARISON_EXAMPLE: dict[str, Any] = {
    "source": "/models/millstone-4m",
    "evaluation_text": "/models/text/evaluation.txt",
    "variants": [
        {"method": "gguf", "params": {"type": "Q8_0"}},
        {"method": "gguf", "params": {"type": "Q4_K_M"}},
    ],
}


class SubmitComparison(Body):
    """Variants of one source, each a job, measured on one text."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [COMPARISON_EXAMPLE]})

    source: Uri = Field(description="checkpoint folder: a path or a file:// URI below one of the source roots")
    evaluation_text: Uri = Field(description="UTF-8 text that all variants are measured on")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="what is measured on it, and how")
    variants: list[SubmitVariant] = Field(min_length=1, max_length=32)
    seed: int = Field(default=0, ge=0, le=LARGEST_INTEGER)
    timeout_seconds: int | None = Field(default=None, ge=1, le=31_536_000, description="of each job")
    labels: Labels = Field(default_factory=dict, description="of each job; list jobs by them")
    gates: Gates = Field(default=(), description="what each artifact must meet, or its job fails")
    escalation: EscalationBody | None = Field(default=None, description="of each job")
    calibration: CalibrationBody | None = Field(default=None, description="of each job that is calibrated")

    def to_request(self) -> ComparisonRequest:
        asked = tuple(VariantRequest(variant.method, variant.params) for variant in self.variants)
        given = {
            "calibration": _calibration(self.calibration),
            "variants": asked,
            "evaluation": EvaluationOptions(**dict(self.evaluation)),
            "escalation": _escalation(self.escalation),
        }
        return ComparisonRequest(**dict(self) | given)


class ProblemPlace(View):
    """Where in the request a problem is: `pointer` (RFC 6901) into the body, or the name of a `parameter`."""

    pointer: str | None = None
    parameter: str | None = None
    code: str
    message: str


class ProblemDocument(BaseModel):
    """RFC 9457. `kind` says who can act: user, data, plugin, infrastructure, resource, policy."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    kind: str | None = None
    errors: list[ProblemPlace] | None = None


Item = TypeVar("Item", bound=BaseModel)


class Page(View, Generic[Item]):
    """Newest first. `next_page_token` is null on the last page."""

    items: list[Item]
    next_page_token: str | None


class ProgressView(View):
    done: int
    total: int
    message: str

    @classmethod
    def of(cls, progress: Progress) -> ProgressView:
        return cls(done=progress.done, total=progress.total, message=progress.message)


class AttemptView(View):
    """One claim of the job by a worker."""

    epoch: int
    worker: str
    started_at: datetime
    ended_at: datetime | None
    outcome: Outcome | None
    exit_code: int | None
    signal: int | None
    peak_memory_bytes: int | None

    @classmethod
    def of(cls, attempt: Attempt) -> AttemptView:
        return cls(**vars(attempt))


class PlanException(View):
    """Tensors that don't get the nominal scheme, with the reason."""

    reason: str
    scheme: str
    tensors: list[str]


class PlanSummary(View):
    """A plan without its rows: sizes, the schemes with their number of tensors, and every exception.

    A job that fits its schemes to a size has `limit_bytes`, which all tensors may take, and `predicted_loss`, nats per
    token of divergence from the source. `open` tensors get their schemes once the weights are measured; until then
    theirs, and the sizes, are a first guess.
    """

    nbytes: int
    limit_bytes: int | None
    predicted_loss: float | None
    open: int
    bits_per_weight: float
    quantized_bits_per_weight: float
    peak_memory_bytes: int
    schemes: dict[str, int]
    exceptions: list[PlanException]
    warnings: list[str]

    @classmethod
    def of(cls, plan: Plan) -> PlanSummary:
        reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
        for tensor in plan.tensors:
            if tensor.reason:
                reasons[tensor.reason, tensor.scheme].append(tensor.name)
        return cls(
            nbytes=plan.nbytes,
            limit_bytes=plan.limit_bytes,
            predicted_loss=plan.predicted_loss,
            open=sum(bool(tensor.candidates) for tensor in plan.tensors),
            bits_per_weight=plan.bits_per_weight,
            quantized_bits_per_weight=plan.quantized_bits_per_weight,
            peak_memory_bytes=plan.peak_memory_bytes,
            schemes=dict(Counter(tensor.scheme for tensor in plan.tensors if tensor.action != "drop")),
            exceptions=[
                PlanException(reason=reason, scheme=scheme, tensors=names)
                for (reason, scheme), names in reasons.items()
            ],
            warnings=list(plan.warnings),
        )


class TensorPlanView(View):
    name: str
    shape: list[int]
    source_dtype: str
    action: str
    scheme: str
    output: str
    nbytes: int
    reason: str
    candidates: list[str] = []


class CalibrationPlan(View):
    """What calibration takes beside the method's own memory, for `windows` of `window` tokens, `threads` at a time.

    `source_statistics` come from a pass of the source, `block_statistics` from each of the `blocks` that are walked.
    """

    source_statistics: list[str]
    block_statistics: list[str]
    blocks: int
    windows: int
    window: int
    threads: int
    memory_bytes: int
    disk_bytes: int

    @classmethod
    def of(cls, planned: Planned, threads: int, windows: int = 128, window: int = 512) -> CalibrationPlan | None:
        need = planned.plan.calibration
        if need is None:
            return None
        cost = calibration_cost(planned.index, planned.plan, windows=windows, window=window, threads=threads)
        return cls(
            source_statistics=list(need.of_source),
            block_statistics=list(need.of_blocks),
            blocks=sum(unit.block is not None for unit in planned.plan.units),
            windows=windows,
            window=window,
            threads=threads,
            memory_bytes=cost.memory,
            disk_bytes=cost.disk,
        )


class IntervalView(View):
    """What is expected, and between what nine of ten such jobs lay."""

    expected: float
    least: float
    most: float


class EstimateView(View):
    """What a job will take, from a formula that `runs` earlier jobs of its kind on `hardware` have corrected.

    The artifact's size is exact but for the container's own bytes, and a first guess while the plan is open. Memory is
    the largest resident set of the process that does the work, scratch what the job holds on disk beside source and
    artifact, seconds the attempt's.
    """

    artifact_bytes: int
    memory_bytes: IntervalView
    scratch_bytes: int
    seconds: IntervalView
    runs: int
    hardware: str | None

    @classmethod
    def of(cls, estimate: Estimate) -> EstimateView:
        known = estimate.to_json()
        return cls(**{name: known[name] for name in cls.model_fields})


class QueueLoadView(View):
    """What a queue has to do; `jobs` is both counts together, and what workers should be scaled by."""

    queue: str
    running: int
    queued: int
    jobs: int

    @classmethod
    def of(cls, queue: str, load: QueueLoad) -> QueueLoadView:
        return cls(queue=queue, running=load.running, queued=load.queued, jobs=load.jobs)


class RouteView(View):
    """Where the job would go now: queues whose workers can run it, cheapest first; without one, why not. `home` is the
    queue that it counts for while it waits."""

    queues: list[str]
    reason: str | None
    missing: list[str]
    home: str | None

    @classmethod
    def of(cls, route: Route) -> RouteView:
        return cls.model_validate(route, from_attributes=True)


class PlanView(View):
    """What a job would do, tensor by tensor."""

    method: str
    params: dict[str, Any]
    architecture: str
    source_nbytes: int
    summary: PlanSummary
    calibration: CalibrationPlan | None = Field(description="null for a job that takes no calibration text")
    estimate: EstimateView
    route: RouteView | None = Field(description="null where no workers are asked")
    tensors: list[TensorPlanView]

    @classmethod
    def of(
        cls, method: str, planned: Planned, estimate: Estimate, threads: int, route: Route | None = None
    ) -> PlanView:
        return cls(
            method=method,
            params=planned.params.model_dump(mode="json"),
            architecture=planned.index.architecture,
            source_nbytes=planned.index.nbytes,
            summary=PlanSummary.of(planned.plan),
            calibration=CalibrationPlan.of(planned, threads),
            estimate=EstimateView.of(estimate),
            route=RouteView.of(route) if route else None,
            tensors=[TensorPlanView.model_validate(row) for row in planned.plan.to_json()["tensors"]],
        )


class GateView(View):
    """A condition on the artifact: what was observed and whether it was met, once it was measured."""

    gate: str
    observed: float | None
    passed: bool | None

    @classmethod
    def of(cls, verdict: GateVerdict) -> GateView:
        return cls(**vars(verdict))


class StepView(View):
    """An attempt that missed the gates of a job which may escalate; `size` is in bytes."""

    params: dict[str, Any]
    size: int
    gates: list[GateView]

    @classmethod
    def of(cls, step: Step) -> StepView:
        return cls(params=dict(step.params), size=step.size, gates=[GateView.of(verdict) for verdict in step.gates])


class EscalationView(View):
    """The budget, and the steps that missed the gates: `params` of the job are then what it goes on with."""

    attempts: int
    size_mb: float | None
    by: str
    steps: list[StepView]


class JobSummary(View):
    """A job as listings show it. The states are closed; phases may be added, so tolerate unknown ones."""

    id: UUID
    state: State
    status_reason: str | None = Field(
        description="of a queued job: no_eligible_worker, waiting_workers, waiting_capacity or backoff; may be added to"
    )
    missing: list[str] = Field(description="what the nearest worker lacks for a queued job that none can take")
    phase: str | None
    progress: ProgressView | None
    source: str
    source_digest: str | None
    method: str
    method_version: str
    params: dict[str, Any]
    evaluation_text: str | None
    evaluation: Evaluation
    calibration: CalibrationBody | None
    seed: int
    timeout_seconds: int | None
    labels: dict[str, str]
    gates: list[GateView]
    escalation: EscalationView | None
    artifact_digest: str | None
    error: dict[str, Any] | None = Field(description="why the job failed: type, title, detail, kind and more")
    retry_of: UUID | None
    queue: str | None
    epoch: int
    cancel_requested_at: datetime | None
    deadline_at: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        return cls(**_job_fields(job))


class JobView(JobSummary):
    """A job with its plan, what it was thought to take, and its attempts."""

    plan: PlanSummary | None = Field(description="null for a method that only workers have: they plan it")
    estimate: EstimateView | None = Field(description="from before it ran; null where there was no plan")
    attempts: list[AttemptView]

    @classmethod
    def of(cls, job: Job) -> JobView:
        plan = PlanSummary.of(Plan.from_json(job.plan)) if job.plan else None
        estimate = EstimateView.of(job.estimate) if job.estimate else None
        attempts = [AttemptView.of(attempt) for attempt in job.attempts]
        return cls(**_job_fields(job), plan=plan, estimate=estimate, attempts=attempts)


def _job_fields(job: Job) -> dict[str, Any]:
    fields = vars(job.request) | vars(job) | {"progress": ProgressView.of(job.progress) if job.progress else None}
    fields["evaluation"] = Evaluation(**vars(job.request.evaluation))
    asked = job.request.calibration
    fields["calibration"] = CalibrationBody(**vars(asked)) if asked else None
    fields["gates"] = [GateView.of(verdict) for verdict in job.gates]
    fields["status_reason"] = job.status_reason(datetime.now(UTC))
    fields["missing"] = _missing(job)
    fields["escalation"] = _escalation_view(job)
    return {name: fields[name] for name in JobSummary.model_fields}


def _missing(job: Job) -> list[str]:
    return list(job.waiting.missing) if job.waiting else []


def _escalation_view(job: Job) -> EscalationView | None:
    asked = job.request.escalation
    if asked is None:
        return None
    steps = [StepView.of(step) for step in job.steps]
    return EscalationView(attempts=asked.attempts, size_mb=asked.size_mb, by=asked.by, steps=steps)


class VariantView(View):
    """A variant of a comparison as it was asked for, and how its job stands; the job's own resource has the rest."""

    name: str
    method: str
    params: dict[str, Any]
    job_id: UUID
    state: State
    status_reason: str | None
    missing: list[str]
    phase: str | None
    progress: ProgressView | None
    artifact_digest: str | None
    gates: list[GateView]
    escalation: EscalationView | None
    error: dict[str, Any] | None

    @classmethod
    def of(cls, variant: Variant) -> VariantView:
        job = variant.job
        return cls(
            name=variant.asked.name,
            method=variant.asked.method,
            params=dict(variant.asked.params),
            job_id=job.id,
            state=job.state,
            status_reason=job.status_reason(datetime.now(UTC)),
            missing=_missing(job),
            phase=job.phase,
            progress=ProgressView.of(job.progress) if job.progress else None,
            artifact_digest=job.artifact_digest,
            gates=[GateView.of(verdict) for verdict in job.gates],
            escalation=_escalation_view(job),
            error=None if job.error is None else dict(job.error),
        )


ReportForm = Literal["html", "json", "csv"]


class ComparisonView(View):
    """Variants of one source. Its state follows from its jobs: the worst end once all have ended."""

    id: UUID
    state: State
    source: str
    source_bytes: int
    evaluation_text: str
    variants: list[VariantView]
    report: dict[ReportForm, str] | None = Field(description="where the report is, once all jobs have ended")
    created_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, comparison: Comparison) -> ComparisonView:
        place = f"/v1/comparisons/{comparison.id}/report"
        links: dict[ReportForm, str] = {form: f"{place}.{form}" for form in get_args(ReportForm)}
        return cls(
            id=comparison.id,
            state=comparison.state,
            source=comparison.source,
            source_bytes=comparison.source_bytes,
            evaluation_text=comparison.evaluation_text,
            variants=[VariantView.of(variant) for variant in comparison.variants],
            report=links if comparison.state in FINAL else None,
            created_at=comparison.created_at,
            ended_at=comparison.ended_at,
        )


class EventView(View):
    """Something that happened to a job; `seq` counts from 1 without gaps."""

    seq: int
    type: str
    at: datetime
    epoch: int
    payload: dict[str, Any]

    @classmethod
    def of(cls, event: Event) -> EventView:
        return cls(seq=event.seq, type=event.type, at=event.at, epoch=event.epoch, payload=dict(event.payload))


class EventList(View):
    """Oldest first. `last_seq` is what to ask after next; `ended` says that no more will come."""

    items: list[EventView]
    last_seq: int
    ended: bool


class RuntimeView(View):
    name: str
    command: str


class MethodView(View):
    """A method: what it accepts (a JSON schema) and what loads its artifacts."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    version: str
    api_version: int
    summary: str
    params_schema: dict[str, Any]
    formats: list[str]
    architectures: list[str]
    ladder: list[dict[str, Any]] = Field(
        default=[], description="parameters that a job may escalate by, smallest first"
    )
    promotes: bool = Field(default=False, description="whether a job may escalate by its worst blocks")
    runtimes: list[RuntimeView]


class MethodList(View):
    items: list[MethodView]


class TextView(View):
    """A registered text. `evaluation_text` takes its `uri`; `digest` is of its documents and their order."""

    name: str
    uri: str
    licence: str
    languages: list[str]
    digest: str | None

    @classmethod
    def of(cls, text: RegisteredText) -> TextView:
        said = text.registration
        return cls(
            name=said.name,
            uri=str(text.path),
            licence=said.licence,
            languages=list(said.languages),
            digest=said.digest,
        )


class TextList(View):
    items: list[TextView]

    @classmethod
    def of(cls, texts: Sequence[RegisteredText]) -> TextList:
        return cls(items=[TextView.of(text) for text in texts])


class FileView(View):
    path: str
    digest: str
    size: int
    media_type: str

    @classmethod
    def of(cls, file: ArtifactFile) -> FileView:
        return cls(**vars(file))


class MetricView(View):
    """One measured number; null where it is not a finite one."""

    name: str
    value: float | None
    unit: str
    subject: str
    n: int | None
    higher_is_better: bool | None
    ci_low: float | None = Field(default=None, description="lower end of the 95 % confidence interval")
    ci_high: float | None = Field(default=None, description="its upper end")

    @classmethod
    def of(cls, metric: Metric) -> MetricView:
        return cls(**vars(metric) | {"value": metric.value if math.isfinite(metric.value) else None})


class ArtifactSummary(View):
    digest: str
    kind: str
    format: str
    size: int
    created_at: datetime

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactSummary:
        return cls(
            digest=artifact.digest,
            kind=artifact.kind,
            format=artifact.format,
            size=artifact.size,
            created_at=artifact.created_at,
        )


class ArtifactView(ArtifactSummary):
    """An artifact with its files, quantmill.json last, and what was measured on it."""

    files: list[FileView]
    metrics: list[MetricView]

    @classmethod
    def with_metrics(cls, artifact: Artifact, metrics: Sequence[Metric]) -> ArtifactView:
        return cls(
            **dict(ArtifactSummary.of(artifact)),
            files=[FileView.of(file) for file in artifact.all_files],
            metrics=[MetricView.of(metric) for metric in metrics],
        )


class LineageView(View):
    """One step: `child` was derived from `parent` by a job."""

    child: str
    parent: str
    relation: str
    job_id: UUID
    method: str
    method_version: str
    params: dict[str, Any]
    seed: int
    depth: int

    @classmethod
    def of(cls, step: Lineage) -> LineageView:
        return cls(**vars(step))


class LineageList(View):
    items: list[LineageView]


class PluginFailureView(View):
    name: str
    reason: str


class WorkerView(View):
    """A worker by its own word: `methods` are versions by name, `memory_bytes` is what one job may take there,
    `free_...` what a new job could have when it was last seen."""

    name: str
    queue: str
    slots: int
    host: str
    versions: dict[str, Any]
    plugin_failures: list[PluginFailureView]
    machine: dict[str, Any]
    methods: dict[str, str]
    memory_bytes: int | None
    free_memory_bytes: int | None
    free_disk_bytes: int | None
    started_at: datetime
    seen_at: datetime

    @classmethod
    def of(cls, worker: WorkerRow) -> WorkerView:
        return cls.model_validate(worker, from_attributes=True)


class WorkerList(View):
    """Every worker, and the plugins that failed to load in this API process."""

    items: list[WorkerView]
    plugin_failures: list[PluginFailureView]

    @classmethod
    def of(cls, workers: Sequence[WorkerRow], plugins: Plugins) -> WorkerList:
        return cls(
            items=[WorkerView.of(worker) for worker in workers],
            plugin_failures=[PluginFailureView(name=each.name, reason=each.reason) for each in plugins.failures],
        )


class DeviceView(View):
    """A device; what is not known is null. `memory_bytes` and `bandwidth` (bytes a second) are of one of `count`."""

    name: str
    aliases: list[str]
    kind: str
    vendor: str
    architecture: str
    compute_capability: float | None
    features: list[str]
    memory_bytes: int | None
    bandwidth: float | None
    count: int
    unified: bool
    driver: str
    source: str
    notes: list[str]

    @classmethod
    def of(cls, device: Device) -> DeviceView:
        return cls(**device.to_json())


class DeviceList(View):
    items: list[DeviceView]


MATCH_EXAMPLE: dict[str, Any] = {"device": "RTX 4090", "ram_gb": 64, "source": "/models/millstone-4m"}


class SubmitMatch(Body):
    """What to make of a model for a device. Without a model only formats, runtimes and hardware are matched."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"examples": [MATCH_EXAMPLE]})

    device: Text = Field(min_length=1, max_length=100, description="a name from GET /v1/devices")
    count: int = Field(default=1, ge=1, le=4096, description="how many of them work together")
    memory_gb: float | None = Field(default=None, gt=0, le=1e9, description="of one device, in place of its own")
    ram_gb: float | None = Field(default=None, gt=0, le=1e9, description="of the host")
    source: Uri | None = Field(default=None, description="checkpoint folder below one of the source roots")
    config: Params | None = Field(default=None, description="a config.json, where there is no checkpoint to read")
    objective: Literal["quality", "speed", "size", "balanced", "fine-tuning", "prototyping"] = "balanced"
    runtime: Text | None = Field(default=None, max_length=64, description="only this one")
    context: int | None = Field(default=None, ge=1, le=100_000_000, description="tokens; default: up to 8192")
    batch: int = Field(default=1, ge=1, le=100_000, description="sequences at once")
    kv_bits: Literal[4, 8, 16, 32] = Field(default=16, description="bits of a value in the KV cache")


class MeasuredView(View):
    what: str
    value: float
    source: str

    @classmethod
    def of(cls, measured: Measured) -> MeasuredView:
        return cls(**vars(measured))


class MemoryView(View):
    """Bytes. `kv_bytes` is null where config.json does not tell; activations and runtime are allowances."""

    weights_bytes: int
    exact_weights: bool
    kv_bytes: int | None
    activations_bytes: int
    runtime_bytes: int
    total_bytes: int
    devices: int
    tensor_parallel: int
    gpu_layers: int | None
    layers: int | None
    host_bytes: int

    @classmethod
    def of(cls, placement: Placement) -> MemoryView:
        memory = placement.memory
        return cls(
            weights_bytes=memory.weights,
            exact_weights=memory.exact_weights,
            kv_bytes=memory.kv,
            activations_bytes=memory.activations,
            runtime_bytes=memory.overhead,
            total_bytes=memory.total,
            devices=placement.devices,
            tensor_parallel=placement.tensor_parallel,
            gpu_layers=placement.gpu_layers,
            layers=placement.layers,
            host_bytes=placement.host_bytes,
        )


class MatchPlanView(View):
    """One way. `tokens_per_second_bound` is bandwidth over the bytes of a token: no runtime is faster.

    `quality` and `speed` hold figures with their source, published or measured by jobs here; both may be empty.
    """

    rank: int
    scheme: str
    method: str
    params: dict[str, Any]
    installed: bool
    installed_note: str
    format: str
    runtime: str
    minimum_version: str
    other_runtimes: list[str]
    verdict: Literal["yes", "degraded"]
    kernel: str
    device: str
    why: str
    reasons: list[str]
    memory: MemoryView | None
    tokens_per_second_bound: float | None
    speed: list[MeasuredView]
    quality: list[MeasuredView]
    note: str

    @classmethod
    def of(cls, rank: int, plan: Recommendation) -> MatchPlanView:
        verdict, scheme = plan.verdict, plan.scheme
        fact, placement = verdict.fact, verdict.placement
        return cls(
            rank=rank,
            scheme=scheme.name,
            method=scheme.method,
            params=dict(scheme.params),
            installed=plan.made_here.installed,
            installed_note=plan.made_here.reason,
            format=scheme.format,
            runtime=plan.runtime,
            minimum_version=fact.minimum_version if fact else "",
            other_runtimes=list(plan.others),
            verdict="yes" if verdict.answer == "yes" else "degraded",
            kernel=fact.kernel if fact else "",
            device=verdict.device.name if verdict.device else "",
            why=plan.why,
            reasons=list(verdict.reasons),
            memory=MemoryView.of(placement) if placement else None,
            tokens_per_second_bound=placement.tokens_per_second if placement else None,
            speed=[MeasuredView.of(fact.speed)] if fact and fact.speed else [],
            quality=[MeasuredView.of(each) for each in scheme.quality],
            note=scheme.note,
        )


class RejectedView(View):
    scheme: str
    reasons: list[str]


class MatchView(View):
    """Plans, best first; every other scheme with the reasons against it; `nearest` where there is no plan."""

    devices: list[DeviceView]
    plans: list[MatchPlanView]
    rejected: list[RejectedView]
    nearest: str
    notes: list[str]

    @classmethod
    def of(cls, answer: Answer) -> MatchView:
        return cls(
            devices=[DeviceView.of(device) for device in answer.machine.devices],
            plans=[MatchPlanView.of(rank, plan) for rank, plan in enumerate(answer.plans, 1)],
            rejected=[RejectedView(scheme=each.scheme.name, reasons=list(each.reasons)) for each in answer.rejected],
            nearest=answer.nearest,
            notes=list(answer.notes),
        )


class Health(View):
    status: Literal["ok", "degraded"]

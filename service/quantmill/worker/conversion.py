"""Sources that become another kind of source before a method works on them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import ArchitectureUnsupported, ParamsRejected, PluginBroken, SourceRejected
from quantmill.contract.method import Conversion, Method
from quantmill.contract.tensors import Plan
from quantmill.verification import Verification
from quantmill.verification.check import Check
from quantmill.worker.session import RunnerSession, check_canceled

CHECK = "conversion"


@dataclass(frozen=True)
class Worked:
    """What a method works on.

    checkpoint  the source, or what it has become
    forecast    the plan that said that it becomes something else; None where it does not
    conversion  what was compared of the two
    digest      of what it has become
    """

    checkpoint: Checkpoint
    forecast: Plan | None = None
    conversion: Conversion | None = None
    digest: str = ""

    def plan(self, method: Method, params: Any) -> Plan:
        """The method's, with what the conversion warns of and the digest of its files."""
        plan = method.plan.load()(self.checkpoint.index, params)
        if self.conversion is None:
            return plan
        warnings = (*self.conversion.warnings, *plan.warnings)
        return replace(plan, warnings=warnings, inputs={**plan.inputs, CHECK: self.digest})

    def name_source(self, digest: str) -> None:
        """For the files that name their source: the digest is that of what was given."""
        self.checkpoint.index = replace(self.checkpoint.index, digest=digest)

    def with_conversion(self, verification: Verification) -> Verification:
        """With a check that says how the source was compared with what it has become."""
        if self.conversion is None or self.forecast is None:
            return verification
        check = Check(CHECK, True, dict(self.conversion.observed), "as the source computes it", self.forecast.converts)
        return replace(verification, checks=(check, *verification.checks))


@contextmanager
def opened(
    source: Checkpoint,
    method: Method,
    params: Any,
    *,
    beside: Path,
    threads: int = 1,
    canceled: threading.Event | None = None,
    converting: Callable[[str], None] = lambda what: None,
    any_source: bool = False,
) -> Iterator[Worked]:
    """What `method` works on. What the source becomes lies in a folder below `beside` until the end.

    `converting` is told what it becomes, before; what it raises ends it. With `any_source` one that the method does not
    take is left as it is: an artifact may be compared with other models than it was made of.

    Raises what `Method.convert` raises, PluginBroken where the plan of what it made would have it converted again,
    Canceled.
    """
    forecast = _forecast(source, method, params, any_source)
    if method.convert is None or forecast is None or not forecast.converts:
        yield Worked(source)
        return
    canceled = canceled or threading.Event()
    session = RunnerSession(source, forecast, threads=threads, device="cpu", seed=0, finished=(), canceled=canceled)
    with TemporaryDirectory(prefix="converted-", dir=beside) as made:
        converting(forecast.converts)
        conversion = method.convert.load()(session, params, Path(made))
        check_canceled(canceled)
        with open_checkpoint(Path(made)) as checkpoint:
            if method.plan.load()(checkpoint.index, params).converts:
                raise PluginBroken(f"method {method.name!r} would convert what it has made", method=method.name)
            yield Worked(checkpoint, forecast, conversion, checkpoint.source_digest())


def _forecast(source: Checkpoint, method: Method, params: Any, any_source: bool) -> Plan | None:
    """The plan that may convert; None where there is none, and of a source that the method does not take."""
    if method.convert is None:
        return None
    try:
        return method.plan.load()(source.index, params)
    except (ArchitectureUnsupported, ParamsRejected, SourceRejected):
        if any_source:
            return None
        raise

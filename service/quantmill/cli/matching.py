"""What runs where: the matcher and its devices, without a service."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quantmill.cli import options
from quantmill.cli.exits import ExitCode
from quantmill.cli.output import note, say, show_fields, show_json, show_table, size
from quantmill.contract.errors import RequestRejected

if TYPE_CHECKING:
    from quantmill.hardware.profiles import Device, Machine
    from quantmill.hardware.recommend import Answer, Recommendation

SHOWN_PLANS = 8
MACHINE_OPTIONS = "--device NAME or --here"

DeviceName = Annotated[str | None, typer.Option("--device", metavar="NAME", help="A name from `quantmill devices`.")]
Here = Annotated[bool, typer.Option("--here", help="This machine.")]
ModelPath = Annotated[
    Path | None, typer.Option("--model", metavar="MODEL", help="A checkpoint folder, a GGUF file, or a config.json.")
]
ObjectiveName = Annotated[
    str, typer.Option(metavar="NAME", help="quality, speed, size, balanced, fine-tuning or prototyping.")
]
RuntimeName = Annotated[str | None, typer.Option("--runtime", metavar="NAME", help="Only this runtime, such as vllm.")]
Context = Annotated[int | None, typer.Option(help="Tokens of one sequence; default: the model's, up to 8192.")]
Batch = Annotated[int, typer.Option(help="Sequences at once.")]
KvBits = Annotated[int, typer.Option(help="Bits of a value in the KV cache: 4, 8, 16 or 32.")]
Count = Annotated[int, typer.Option(help="How many of the device work together.")]
MemoryGb = Annotated[float | None, typer.Option("--memory", metavar="GB", help="Of one device, in place of its own.")]
RamGb = Annotated[float | None, typer.Option("--ram", metavar="GB", help="Of the host.")]


def match(
    device: DeviceName = None,
    here: Here = False,
    model: ModelPath = None,
    objective: ObjectiveName = "balanced",
    runtime: RuntimeName = None,
    context: Context = None,
    batch: Batch = 1,
    kv_bits: KvBits = 16,
    count: Count = 1,
    memory: MemoryGb = None,
    ram: RamGb = None,
    as_json: options.Json = False,
) -> int:
    """What to make of MODEL for a device: ranked plans, and what was rejected, with reasons. 1 where nothing runs."""
    from quantmill.jobs.match import Question, answer, read_model
    from quantmill.plugins import load_plugins

    extra = options.settings().device_catalogue
    machine = chosen_machine(device, here, count, memory, ram, extra)
    asked = read_model(model) if model else None
    question = Question(objective, runtime, context, batch, kv_bits)  # type: ignore[arg-type]  # checked by answer
    found = answer(load_plugins(), machine, asked, question, extra=extra)
    if as_json:
        from quantmill.api.schemas import MatchView

        show_json(MatchView.of(found))
    else:
        show_match(found)
    return ExitCode.DONE if found.plans else ExitCode.FAILED


def devices(
    filter_: Annotated[str | None, typer.Argument(metavar="[FILTER]", help="Part of a name or a vendor.")] = None,
    here: Here = False,
    as_json: options.Json = False,
) -> None:
    """The devices that the matcher knows, or this machine's."""
    from quantmill.hardware.catalogue import catalogue

    unseen: tuple[str, ...] = ()
    if here:
        from quantmill.hardware.probes import this_machine

        machine = this_machine()
        found, unseen = list(machine.devices), machine.unseen
    else:
        known = catalogue(options.settings().device_catalogue)
        wanted = (filter_ or "").lower()
        found = [each for each in known.values() if wanted in f"{each.vendor} {each.name}".lower()]
    if as_json:
        show_json([each.to_json() for each in found])
        return
    columns = ("device", "vendor", "architecture", "compute capability", "memory", "GB/s", "source")
    show_table(columns, [device_row(each) for each in found])
    for each in unseen:
        note(f"not seen: {each}")


def chosen_machine(
    device: str | None, here: bool, count: int, memory: float | None, ram: float | None, extra: Path | None
) -> Machine:
    """The machine that the options name. Raises RequestRejected where they name none, or two."""
    from quantmill.jobs.match import described_machine

    if here and device:
        raise RequestRejected(f"--here and --device {device} name two machines; give one of {MACHINE_OPTIONS}")
    if here:
        if count != 1 or memory is not None or ram is not None:
            raise RequestRejected("--here is this machine as it is; --count, --memory and --ram go with --device")
        from quantmill.hardware.probes import this_machine

        return this_machine()
    if not device:
        raise RequestRejected(f"say which machine: {MACHINE_OPTIONS}")
    return described_machine(device, count=count, memory_gb=memory, ram_gb=ram, extra=extra)


def device_row(device: Device) -> tuple[Any, ...]:
    memory = None if device.memory_bytes is None else size(device.memory_bytes)
    bandwidth = None if device.bandwidth is None else round(device.bandwidth / 1e9, 1)
    name = f"{device.count} x {device.name}" if device.count > 1 else device.name
    return name, device.vendor, device.architecture, device.compute_capability, memory, bandwidth, device.source


def show_match(found: Answer) -> None:
    columns = ("#", "scheme", "runtime", "kernel", "", "size", "memory", "tok/s at most", "made here")
    show_table(columns, [plan_row(rank, plan) for rank, plan in enumerate(found.plans[:SHOWN_PLANS], 1)])
    if len(found.plans) > SHOWN_PLANS:
        say(f"and {len(found.plans) - SHOWN_PLANS} more; --json shows all")
    if found.plans:
        say("")
        show_best(found.plans[0])
    if found.rejected:
        say("\nRejected")
        for each in found.rejected:
            say(f"  {each.scheme.name}: {'; '.join(each.reasons)}")
    for text in found.notes:
        note(text)
    if found.nearest:
        say(f"\nNothing runs there. Nearest: {found.nearest}")


def plan_row(rank: int, plan: Recommendation) -> tuple[Any, ...]:
    placement = plan.verdict.placement
    return (
        rank,
        plan.scheme.name,
        plan.runtime,
        plan.verdict.fact.kernel if plan.verdict.fact else None,
        "" if plan.verdict.answer == "yes" else plan.verdict.answer,
        size(placement.memory.weights) if placement else None,
        size(placement.memory.total) if placement else None,
        placement.tokens_per_second if placement else None,
        "yes" if plan.made_here.installed else "no",
    )


def show_best(plan: Recommendation) -> None:
    scheme, fact = plan.scheme, plan.verdict.fact
    sets = " ".join(f"--set {key}={value}" for key, value in scheme.params.items())
    fields: dict[str, Any] = {
        "best": f"{scheme.name} in {plan.runtime}: {plan.why}",
        "made by": f"--method {scheme.method} {sets}" if plan.made_here.installed else plan.made_here.reason,
        "because": "; ".join(plan.verdict.reasons),
    }
    figures = (*scheme.quality, *([fact.speed] if fact and fact.speed else []))
    if figures:
        fields["known"] = "; ".join(f"{each.what} {each.value:g} ({each.source})" for each in figures)
    if scheme.note:
        fields["note"] = scheme.note
    show_fields(fields)

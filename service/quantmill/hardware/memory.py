"""Whether a model fits: weights, KV cache, activations and a runtime's own share, on one device, several, or split.

Weights are exact where they come from a method's plan. The KV cache follows from the model's dimensions. Activations
and overheads are allowances: what a fit promises is that the rest has room, not that a byte is left over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from quantmill.contract.facts import ShapeRule
from quantmill.hardware.models import ModelShape, Weights
from quantmill.hardware.profiles import Device
from quantmill.hardware.runtimes import UNIFIED_SHARE, RuntimeProfile

ACTIVATION_BYTES = 2
LOGIT_BYTES = 4
DEFAULT_CONTEXT = 8192
LARGEST_CONTEXT = 100_000_000
LARGEST_BATCH = 100_000


@dataclass(frozen=True)
class Load:
    """What is to be held at once: `batch` sequences of `context` tokens, cached in `kv_bits` a value."""

    context: int = DEFAULT_CONTEXT
    batch: int = 1
    kv_bits: int = 16


@dataclass(frozen=True)
class Memory:
    """Bytes of a whole model. `kv` is None where config.json does not tell its heads."""

    weights: int
    kv: int | None
    activations: int
    overhead: int  # of each device
    exact_weights: bool

    @property
    def total(self) -> int:
        return self.weights + (self.kv or 0) + self.activations + self.overhead


@dataclass(frozen=True)
class Placement:
    """How a model lies on devices: cut over `tensor_parallel`, or `gpu_layers` of `layers` on `devices` GPUs.

    `seconds_per_token` is the least time that one token's bytes take through memory, None where a bandwidth is not
    known. `unsure` says which memory was not known.
    """

    memory: Memory
    devices: int = 1
    tensor_parallel: int = 1
    gpu_layers: int | None = None
    layers: int | None = None
    host_bytes: int = 0
    seconds_per_token: float | None = None
    unsure: tuple[str, ...] = ()

    @property
    def split(self) -> bool:
        return self.host_bytes > 0

    @property
    def tokens_per_second(self) -> float | None:
        return 1 / self.seconds_per_token if self.seconds_per_token else None


@dataclass(frozen=True)
class Shortfall:
    """Why there is no placement; `missing` bytes, 0 where memory is not what is wrong."""

    reasons: tuple[str, ...]
    missing: int = 0


def memory_of(model: ModelShape, weights: Weights, runtime: RuntimeProfile, load: Load, *, unpacked: bool) -> Memory:
    """What a model needs in a runtime, before it is spread over devices."""
    held = model.parameters * ACTIVATION_BYTES if unpacked else weights.nbytes
    values = model.cache.values(load.context, compressed=runtime.mla) if model.cache else None
    kv = None if values is None else -(-values * load.batch * load.kv_bits // 8)
    chunk = min(runtime.chunk, load.context)
    activations = chunk * (4 * model.hidden + 2 * model.ffn) * ACTIVATION_BYTES + load.batch * model.vocab * LOGIT_BYTES
    return Memory(held, kv, activations, runtime.overhead, weights.exact and not unpacked)


def place(
    device: Device,
    host: Device | None,
    model: ModelShape,
    weights: Weights,
    runtime: RuntimeProfile,
    rule: ShapeRule,
    load: Load,
    *,
    unpacked: bool = False,
) -> Placement | Shortfall:
    """The placement that uses fewest devices, or what is missing for one."""
    memory = memory_of(model, weights, runtime, load, unpacked=unpacked)
    if device.kind == "cpu":
        memory = Memory(memory.weights, memory.kv, memory.activations, 0, memory.exact_weights)
    problems: list[str] = []
    for count in _counts(device, runtime):
        found = _try(device, model, weights, runtime, rule, memory, count)
        if isinstance(found, Placement):
            return found
        problems.extend(found.reasons)
    if rule_problems := _shape_problems(model, rule, 1):
        return Shortfall(tuple(rule_problems))
    if runtime.offload and device.kind == "gpu" and not device.unified:
        return _split(device, host, model, weights, runtime, memory)
    missing = memory.total - _capacity(device, runtime) * _usable(device, runtime)
    return Shortfall((*dict.fromkeys(problems), _says_missing(memory, device, missing)), max(missing, 0))


def _counts(device: Device, runtime: RuntimeProfile) -> Iterator[int]:
    """How many devices may hold one model: one, then doubling for tensors and one by one for layers."""
    count = 1
    while count <= _usable(device, runtime):
        yield count
        count = count * 2 if runtime.parallel == "tensor" else count + 1


def _usable(device: Device, runtime: RuntimeProfile) -> int:
    return 1 if runtime.parallel == "none" or device.kind == "cpu" else device.count


def _capacity(device: Device, runtime: RuntimeProfile) -> int:
    share = UNIFIED_SHARE if device.unified else runtime.memory_share
    return int((device.memory_bytes or 0) * share)


def _try(
    device: Device,
    model: ModelShape,
    weights: Weights,
    runtime: RuntimeProfile,
    rule: ShapeRule,
    memory: Memory,
    count: int,
) -> Placement | Shortfall:
    tensor = count if runtime.parallel == "tensor" else 1
    if problems := _shape_problems(model, rule, tensor):
        return Shortfall(tuple(problems))
    if tensor > 1 and (model.heads is None or model.heads % tensor):
        return Shortfall((f"{model.heads or 'an unknown number of'} attention heads cannot be cut in {tensor}",))
    if device.memory_bytes is not None and _each(memory, model, count, tensor) > _capacity(device, runtime):
        return Shortfall((), memory.total)
    unsure = () if device.memory_bytes is not None else (_needs(device, _each(memory, model, count, tensor)),)
    return Placement(
        memory,
        devices=count,
        tensor_parallel=tensor,
        layers=model.layers,
        gpu_layers=model.layers if device.kind == "gpu" and runtime.offload else None,
        seconds_per_token=_seconds(_read_per_token(memory, weights) / tensor, device.bandwidth),
        unsure=unsure,
    )


def _each(memory: Memory, model: ModelShape, count: int, tensor: int) -> int:
    """Bytes of the fullest device. Key/value heads that don't suffice for all devices are kept several times."""
    if tensor > 1:
        shared = (memory.weights + memory.activations) // tensor
        return shared + (memory.kv or 0) // min(tensor, model.kv_heads or 1) + memory.overhead
    if count > model.layers:
        count = model.layers
    return -(-(memory.weights + (memory.kv or 0)) // count) + memory.activations + memory.overhead


def _split(
    device: Device, host: Device | None, model: ModelShape, weights: Weights, runtime: RuntimeProfile, memory: Memory
) -> Placement | Shortfall:
    """As many layers on the GPUs as fit, the rest in RAM: llama.cpp's -ngl."""
    outside = weights.outside
    each = -(-(memory.weights - outside + (memory.kv or 0)) // model.layers)
    room = device.count * (_capacity(device, runtime) - memory.overhead) - memory.activations
    on_gpu = max(0, min(model.layers, int(room // each))) if each else 0
    host_bytes = max(0, memory.weights + (memory.kv or 0) - on_gpu * each)
    if on_gpu == 0:
        return Shortfall((f"not one of {model.layers} layers fits on {device.name}",), each + memory.overhead)
    if host is not None and host.memory_bytes is not None:
        missing = host_bytes - int(host.memory_bytes * runtime.memory_share)
        if missing > 0:
            return Shortfall((_says_missing(memory, device, missing, " with its RAM"),), missing)
    ram = host or Device("the host", "cpu", "")
    unsure = () if ram.memory_bytes is not None else (_needs(ram, host_bytes),)
    share = on_gpu / model.layers
    read = _read_per_token(memory, weights)
    fast, slow = _seconds(read * share, device.bandwidth), _seconds(read * (1 - share), ram.bandwidth)
    return Placement(
        memory,
        devices=device.count,
        gpu_layers=on_gpu,
        layers=model.layers,
        host_bytes=host_bytes,
        seconds_per_token=None if fast is None or slow is None else fast + slow,
        unsure=unsure,
    )


def _read_per_token(memory: Memory, weights: Weights) -> float:
    """Bytes that one token of one sequence moves: the weights it uses and the cache, at the end of the context."""
    blocks = weights.blocks / weights.nbytes if weights.nbytes else 1.0
    return memory.weights * (1 - blocks + blocks * weights.active) + (memory.kv or 0)


def _seconds(nbytes: float, bandwidth: float | None) -> float | None:
    return None if not bandwidth else nbytes / bandwidth


def _shape_problems(model: ModelShape, rule: ShapeRule, tensor: int) -> list[str]:
    """The Linears that a kernel cannot take when cut over `tensor` devices."""
    problems = []
    cut = f" after a cut in {tensor}" if tensor > 1 else ""
    for linear in model.linears:
        inputs, outputs = linear.shard(tensor)
        if linear.is_expert and not rule.experts:
            problems.append(f"{linear.name}: no mixtures of experts")
        if inputs % rule.inputs:
            problems.append(f"{linear.name}: {inputs:g} inputs{cut} are no multiple of {rule.inputs}")
        if outputs % rule.outputs:
            problems.append(f"{linear.name}: {outputs:g} outputs{cut} are no multiple of {rule.outputs}")
    return problems


def _says_missing(memory: Memory, device: Device, missing: int, where: str = "") -> str:
    kv = "an unknown KV cache" if memory.kv is None else f"KV cache {gigabytes(memory.kv)}"
    return (
        f"needs {gigabytes(memory.total)} (weights {gigabytes(memory.weights)}, {kv}, activations "
        f"{gigabytes(memory.activations)}, runtime {gigabytes(memory.overhead)}); {gigabytes(max(missing, 1))} missing "
        f"on {f'{device.count} x ' if device.count > 1 else ''}{device.name}{where}"
    )


def _needs(device: Device, nbytes: int) -> str:
    return f"the memory of {device.name} is not known: it must have {gigabytes(nbytes)} free"


def gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"

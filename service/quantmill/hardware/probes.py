"""What this machine is. A probe never fails: what it cannot see is None, or a sentence in `unseen`."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psutil

from quantmill.hardware.profiles import Device, Machine

CPUINFO = Path("/proc/cpuinfo")
KFD_NODES = Path("/sys/class/kfd/kfd/topology/nodes")
CONTROL_GROUP = Path("/sys/fs/cgroup")
DRM = Path("/sys/class/drm")
INTEL_VENDOR = "0x8086"

T = TypeVar("T")

X86_VENDORS = {"GenuineIntel": "intel", "AuthenticAMD": "amd"}
KNOWN_FEATURES = frozenset(
    {"avx", "avx2", "f16c", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16"}
    | {"asimd", "asimddp", "i8mm", "bf16", "sve", "sve2"}
)


def this_machine() -> Machine:
    """The machine that this process runs on, with the RAM and devices that the process can see."""
    unseen: list[str] = []
    processor = _guarded("processor", _processor, unseen)
    accelerators: list[Device] = []
    for name, probe in PROBES.items():
        accelerators.extend(_guarded(name, probe, unseen) or ())
    return Machine(processor, tuple(accelerators), tuple(unseen))


def _guarded(name: str, probe: Callable[[], T], unseen: list[str]) -> T | None:
    try:
        return probe()
    except Exception as error:  # drivers and files of any kind of machine: nothing here may stop the caller
        unseen.append(f"{name}: {error or type(error).__name__}")
        return None


# The processor


def _processor() -> Device:
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    fields = _first_fields(text)
    flags = frozenset((fields.get("flags") or fields.get("Features") or "").split())
    vendor = X86_VENDORS.get(fields.get("vendor_id", ""), "arm" if platform.machine() in {"arm64", "aarch64"} else "")
    return Device(
        name=fields.get("model name") or platform.processor() or platform.machine() or "processor",
        kind="cpu",
        vendor=vendor,
        features=flags & KNOWN_FEATURES,
        memory_bytes=usable_memory(),
        driver=f"{platform.system()} {platform.release()}",
        source="this machine",
    )


def _first_fields(text: str) -> dict[str, str]:
    """The fields of the first processor in /proc/cpuinfo; all cores of one machine say the same."""
    block = text.split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def usable_memory() -> int:
    """RAM, or less where a control group grants less."""
    total = int(psutil.virtual_memory().total)
    granted = _of_control_group("memory.max")
    return min(total, granted) if granted else total


def free_memory() -> int:
    """RAM that this process could take now, or less where its control group grants less."""
    free = int(psutil.virtual_memory().available)
    granted, taken = _of_control_group("memory.max"), _of_control_group("memory.current")
    return max(0, min(free, granted - taken)) if granted and taken else free


def _of_control_group(name: str) -> int | None:
    try:
        return int((CONTROL_GROUP / name).read_text())
    except (OSError, ValueError):  # "max", or no control groups
        return None


# NVIDIA, through the driver's own library


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _nvidia() -> tuple[Device, ...]:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return ()  # no driver, no NVIDIA devices
    _nvml(nvml.nvmlInit_v2())
    try:
        count = ctypes.c_uint()
        _nvml(nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)))
        driver = ctypes.create_string_buffer(96)
        _nvml(nvml.nvmlSystemGetDriverVersion(driver, len(driver)))
        found = [_nvidia_device(nvml, number, driver.value.decode()) for number in range(count.value)]
    finally:
        nvml.nvmlShutdown()
    return _counted(found)


def _nvidia_device(nvml: ctypes.CDLL, number: int, driver: str) -> Device:
    handle, memory = ctypes.c_void_p(), _Memory()
    major, minor = ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(96)
    _nvml(nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)))
    _nvml(nvml.nvmlDeviceGetName(handle, name, len(name)))
    _nvml(nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)))
    told = nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0
    return Device(
        name=name.value.decode(errors="replace"),
        kind="gpu",
        vendor="nvidia",
        compute_capability=major.value + minor.value / 10,
        memory_bytes=int(memory.total) or None if told else None,
        bandwidth=_nvidia_bandwidth(nvml, handle),
        driver=driver,
        source="NVML",
    )


def _nvidia_bandwidth(nvml: ctypes.CDLL, handle: ctypes.c_void_p) -> float | None:
    """Memory clock (MHz, two transfers a cycle) times bus width; None where the driver does not tell both."""
    clock, width = ctypes.c_uint(), ctypes.c_uint()
    memory_clock = 2
    if nvml.nvmlDeviceGetMaxClockInfo(handle, memory_clock, ctypes.byref(clock)):
        return None
    if nvml.nvmlDeviceGetMemoryBusWidth(handle, ctypes.byref(width)):
        return None
    return 2.0 * clock.value * 1e6 * width.value / 8 or None


def _nvml(code: int) -> None:
    if code:
        raise OSError(f"the NVIDIA driver answered with NVML error {code}")


def _counted(devices: list[Device]) -> tuple[Device, ...]:
    """Equal devices as one with a count."""
    return tuple(replace(device, count=devices.count(device)) for device in dict.fromkeys(devices))


# AMD, Intel, Apple


def _amd() -> tuple[Device, ...]:
    return _counted([device for node in sorted(KFD_NODES.glob("*")) for device in _amd_node(node)])


def _amd_node(node: Path) -> Iterator[Device]:
    properties = dict(line.split(maxsplit=1) for line in (node / "properties").read_text().splitlines() if " " in line)
    target = int(properties.get("gfx_target_version", 0))
    if not target:
        return  # a processor
    major, minor, step = target // 10000, target // 100 % 100, target % 100
    banks = [bank.read_text() for bank in node.glob("mem_banks/*/properties")]
    sizes = [int(line.split()[1]) for bank in banks for line in bank.splitlines() if line.startswith("size_in_bytes ")]
    name = f"gfx{major}{minor:x}{step:x}"
    yield Device(name, "gpu", "amd", name, memory_bytes=sum(sizes) or None, source="KFD topology")


def _intel() -> tuple[Device, ...]:
    """Intel graphics by their PCI vendor. Those inside a processor, which have no memory of their own, do not count."""
    found = []
    for card in sorted(DRM.glob("card[0-9]")):
        vendor = card / "device" / "vendor"
        if vendor.exists() and vendor.read_text().strip() == INTEL_VENDOR and (card / "lmem_total_bytes").exists():
            size = int((card / "lmem_total_bytes").read_text())
            found.append(Device("Intel GPU", "gpu", "intel", memory_bytes=size or None, source="DRM"))
    return _counted(found)


def _apple() -> tuple[Device, ...]:
    if platform.system() != "Darwin" or platform.machine() != "arm64":
        return ()
    brand = subprocess.run(
        ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=True, timeout=5
    ).stdout.strip()
    features = frozenset({"asimd", "asimddp"})
    memory = int(psutil.virtual_memory().total)
    return (Device(brand, "gpu", "apple", features=features, memory_bytes=memory, unified=True, source="sysctl"),)


PROBES: dict[str, Callable[[], tuple[Device, ...]]] = {
    "NVIDIA": _nvidia,
    "AMD": _amd,
    "Intel": _intel,
    "Apple": _apple,
}

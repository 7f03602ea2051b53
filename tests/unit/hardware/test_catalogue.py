"""The device catalogue, what an installation adds to it, and what this machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantmill.contract.errors import RequestRejected
from quantmill.hardware import probes
from quantmill.hardware.catalogue import UnknownDevice, catalogue, find_device
from quantmill.hardware.profiles import GB, Device, machine_of
from quantmill.jobs.match import described_machine

VENDORS = {"nvidia", "amd", "apple", "intel", "arm", "google", "qualcomm", "aws"}


@pytest.mark.parametrize("device", catalogue().values(), ids=lambda device: device.name)
def test_a_device_names_the_source_of_its_figures(device: Device) -> None:
    assert device.source
    assert device.vendor in VENDORS
    assert device.kind == "cpu" or device.vendor != "nvidia" or device.compute_capability is not None


def test_every_family_of_the_matter_is_there() -> None:
    architectures = {device.architecture for device in catalogue().values()}

    assert {"Turing", "Ampere", "Ada", "Hopper", "Blackwell", "gfx90a", "gfx942", "gfx950", "gfx1100"} <= architectures
    assert {"M1", "M2", "M3", "M4", "M5", "Gaudi", "Edge TPU", "Hexagon", "NeuronCore-v2"} <= architectures
    assert {"Sapphire Rapids", "Zen 4", "Neoverse V1", "Oryon"} <= architectures


NAMES = [
    ("RTX 4090", "RTX 4090"),
    ("nvidia geforce rtx 4090", "RTX 4090"),
    ("rtx4090", "RTX 4090"),
    ("NVIDIA H100 80GB HBM3", "H100 SXM"),
    ("AMD Instinct MI300X".replace("Instinct ", ""), "MI300X"),
    ("Apple M2 Max", "M2 Max"),
    ("a100 80gb", "A100 80GB SXM"),
    ("Coral", "Edge TPU"),
]


@pytest.mark.parametrize(("asked", "name"), NAMES)
def test_a_device_is_found_however_its_name_is_written(asked: str, name: str) -> None:
    assert find_device(asked).name == name


def test_a_memory_may_follow_the_name() -> None:
    assert find_device("M2 Max 96GB").memory_bytes == 96 * GB
    assert find_device("RTX 3080 12 GB").memory_bytes == 12 * GB
    assert find_device("M2 Max").notes == ("sold with 32, 64, 96 GB; the smallest is assumed",)


def test_an_unknown_device_is_answered_with_those_written_alike() -> None:
    with pytest.raises(UnknownDevice, match=r"written alike: .*RTX 4090") as raised:
        find_device("RTX 4095")

    assert "RTX 4090" in raised.value.fields["alike"]


@pytest.mark.parametrize("name", ["", " ", "\0", "x" * 5000, "😀", "GB", "0 GB"])
def test_any_name_is_answered(name: str) -> None:
    with pytest.raises(UnknownDevice):
        find_device(name)


NONSENSE = [
    {"count": 0},
    {"count": 10**9},
    {"memory_gb": -1},
    {"memory_gb": float("nan")},
    {"memory_gb": float("inf")},
    {"ram_gb": 0},
]


@pytest.mark.parametrize("figures", NONSENSE, ids=str)
def test_figures_that_no_machine_has_are_refused(figures: dict[str, float]) -> None:
    with pytest.raises(RequestRejected):
        described_machine("RTX 4090", **figures)  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "said"), [("M2 Max", "shares its memory"), ("EPYC Genoa", "give one of the two")])
def test_memory_that_is_given_twice_is_refused(device: str, said: str) -> None:
    with pytest.raises(RequestRejected, match=said):
        machine_of(find_device(device), memory_bytes=GB, ram_bytes=2 * GB)


def test_an_installation_adds_devices_and_corrects_ours(tmp_path: Path) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(
        "families: [{vendor: acme, kind: gpu, source: 'acme, product page', devices: "
        "[{name: Anvil 1, memory_gb: 12}, {name: RTX 4090, memory_gb: 48}]}]"
    )

    assert find_device("anvil 1", file).memory_bytes == 12 * GB
    assert find_device("RTX 4090", file).memory_bytes == 48 * GB
    assert find_device("RTX 4090").memory_bytes == 24 * GB


@pytest.mark.parametrize(
    "text",
    ["", "[", "families: 3", "families: [{vendor: acme}]", "!!python/object/apply:os.getcwd []",
     "families: [{vendor: a, kind: gpu, source: s, devices: [{name: A, memory_gb: -3}]}]",
     "families: [{vendor: a, kind: gpu, source: s, devices: [{name: A, memory_gb: .nan}]}]"],
)  # fmt: skip
def test_a_file_that_is_no_catalogue_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "devices.yaml"
    file.write_text(text)

    with pytest.raises(RequestRejected, match=r"devices\.yaml"):
        catalogue(file)


# This machine


def test_this_machine_is_seen() -> None:
    machine = probes.this_machine()

    assert machine.processor is not None
    assert machine.processor.memory_bytes
    assert machine.processor.name


def test_a_probe_that_breaks_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[Device, ...]:
        raise OSError("the driver does not answer")

    monkeypatch.setitem(probes.PROBES, "NVIDIA", broken)

    assert "NVIDIA: the driver does not answer" in probes.this_machine().unseen


def test_an_amd_device_is_read_from_the_topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, target in enumerate([0, 90402, 90402]):
        bank = tmp_path / str(number) / "mem_banks" / "0"
        bank.mkdir(parents=True)
        (bank / "properties").write_text("heap_type 1\nsize_in_bytes 206141652992\n")
        (tmp_path / str(number) / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {target}\n")
    monkeypatch.setattr(probes, "KFD_NODES", tmp_path)

    (found,) = probes.this_machine().accelerators

    assert (found.name, found.count, found.memory_bytes) == ("gfx942", 2, 206141652992)


def test_cpu_flags_are_read_from_the_first_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "vendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9654\nflags\t\t: fpu avx2 avx512f\n\nflags : x"
    )
    monkeypatch.setattr(probes, "CPUINFO", cpuinfo)

    found = probes.this_machine().processor

    assert found is not None
    assert (found.vendor, found.name, found.features) == ("amd", "AMD EPYC 9654", {"avx2", "avx512f"})

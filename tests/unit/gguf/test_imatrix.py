"""Importance matrices: both files of llama-imatrix, read, written and used."""

from __future__ import annotations

import hashlib
import shutil
import struct
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.random_models import RANDOM_MODELS

import quantmill_kernels
from quantmill.calibration.engine import calibrate
from quantmill.checkpoints import Checkpoint, open_checkpoint
from quantmill.contract.errors import ParamsRejected, SourceRejected, VerificationFailed
from quantmill.contract.tensors import Plan, TensorPlan
from quantmill.contract.testing import Run, calibration_ids
from quantmill.verification import verify
from quantmill_gguf import importance
from quantmill_gguf.families import ExpectedTensor
from quantmill_gguf.imatrix import Entry, ImportanceMatrix, read_imatrix, write_imatrix
from quantmill_gguf.plugin import GGUF

# formats.md 1.7: means .25, 1, 4, .5 after two calls
LEGACY = bytes.fromhex(
    "01000000 13000000" + b"blk.0.attn_q.weight".hex() + "02000000 04000000 0000003f 00000040 00000041 0000803f"
    "02000000 05000000" + b"c.txt".hex()
)
EXPERTS = Entry(np.array([[2, 4], [0, 0], [9, 3]], np.float32), np.array([2, 0, 3], np.float32))


def written(path: Path, matrix: ImportanceMatrix) -> ImportanceMatrix:
    return read_imatrix(write_imatrix(path, matrix))


def test_the_legacy_file_of_the_specification_is_read(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(LEGACY)

    matrix = read_imatrix(path)

    assert matrix.entries["blk.0.attn_q.weight"].means(1, 4).tolist() == [[0.25, 1, 4, 0.5]]
    assert (matrix.chunks, matrix.datasets) == (2, ("c.txt",))
    assert matrix.digest == "sha256:" + hashlib.sha256(LEGACY).hexdigest()


def test_the_legacy_file_is_written_as_it_is_specified(tmp_path: Path) -> None:
    sums = np.array([[0.5, 2, 8, 1]], np.float32)
    matrix = ImportanceMatrix({"blk.0.attn_q.weight": Entry(sums, np.array([2], np.float32))}, "", 2, 0, ("c.txt",))

    assert write_imatrix(tmp_path / "imatrix.dat", matrix).read_bytes() == LEGACY


def test_the_gguf_file_has_sums_and_counts_under_llama_imatrix_s_names(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, ImportanceMatrix({"blk.0.ffn_up_exps.weight": EXPERTS}, "", 7, 512, ("c.txt",)))

    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    tensors = {tensor.name: (tensor.shape.tolist(), tensor.data.tolist()) for tensor in reader.tensors}

    assert keys == {
        "general.type": "imatrix",
        "imatrix.datasets": ["c.txt"],
        "imatrix.chunk_count": 7,
        "imatrix.chunk_size": 512,
    }
    assert tensors == {
        "blk.0.ffn_up_exps.weight.in_sum2": ([2, 3], [[2, 4], [0, 0], [9, 3]]),
        "blk.0.ffn_up_exps.weight.counts": ([1, 3], [[2], [0], [3]]),
    }


@pytest.mark.parametrize("name", ["imatrix.gguf", "imatrix.dat"])
def test_what_was_written_is_read_and_an_expert_that_nothing_reached_has_ones(tmp_path: Path, name: str) -> None:
    matrix = written(tmp_path / name, ImportanceMatrix({"blk.0.ffn_up_exps.weight": EXPERTS}, "", 7, 512, ("c.txt",)))

    entry = matrix.entries["blk.0.ffn_up_exps.weight"]

    assert entry.means(3, 2).tolist() == [[1, 2], [1, 1], [3, 1]]
    assert entry.unreached(3, 2) == (1,)
    assert (matrix.chunks, matrix.datasets) == (7, ("c.txt",))


HUGE = 2**31 - 1
NAME = struct.pack("<i", 1) + b"a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be a file of 1 to"),
        (b"\x01", "cut short"),
        (struct.pack("<i", 0), "claims 0 entries"),
        (struct.pack("<i", HUGE), "claims 2147483647 entries"),
        (struct.pack("<i", -1), "claims -1 entries"),
        (struct.pack("<ii", 1, HUGE), "claims 2147483647 bytes of a name"),
        (struct.pack("<i", 1) + NAME + struct.pack("<ii", 1, HUGE), "claims 2147483647 values"),
        (struct.pack("<i", 1) + NAME + struct.pack("<ii", 1, 2**20), "cut short"),
        (struct.pack("<i", 1) + NAME + struct.pack("<ii", 1, -4), "claims -4 values"),
        (struct.pack("<i", 2) + (NAME + struct.pack("<iif", 1, 1, 1)) * 2, "'a' twice"),
        (struct.pack("<i", 1) + struct.pack("<i", 1) + b"\xff" + bytes(8), "not UTF-8"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "claims 1099511627776 entries"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0) + bytes(8), "general.type is not 'imatrix'"),
    ],
)
def test_a_file_that_is_no_importance_matrix_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    with pytest.raises(SourceRejected, match=message):
        read_imatrix(path)


def test_sums_without_counts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    write_imatrix(path, ImportanceMatrix({"a": EXPERTS}))
    path.write_bytes(path.read_bytes().replace(b"a.counts", b"b.counts"))
    with pytest.raises(SourceRejected, match=r"has no 'a\.counts'"):
        read_imatrix(path)


@settings(max_examples=200, deadline=None)
@given(content=st.binary(min_size=1, max_size=160), is_gguf=st.booleans())
def test_160_bytes_of_anything_are_read_or_refused_in_little_memory(content: bytes, is_gguf: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "imatrix.dat"
        path.write_bytes(b"GGUF\x03\x00\x00\x00" + content if is_gguf else content)
        tracemalloc.start()
        try:
            read_imatrix(path)
        except SourceRejected:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 2 << 20


# Used


Write = Callable[..., Path]


@pytest.fixture
def file_for(small: Checkpoint, tmp_path: Path) -> Write:
    """An importance matrix for the small checkpoint; keyword arguments replace entries, None leaves one out."""

    def write(**changes: Entry | None) -> Path:
        rng = np.random.default_rng(0)
        plan = GGUF.plan.load()(small.index, GGUF.params(type="F32"))
        matrices = [row for row in plan.tensors if len(row.shape) == 2 and row.output.startswith("blk.")]
        entries: dict[str, Entry | None] = {
            row.output: Entry(rng.lognormal(0, 1, (1, row.shape[1])).astype(np.float32), np.ones(1, np.float32))
            for row in matrices
        }
        entries |= {name.replace("_of_", "."): entry for name, entry in changes.items()}
        kept = {name: entry for name, entry in entries.items() if entry is not None}
        return write_imatrix(tmp_path / "imatrix.gguf", ImportanceMatrix(kept, chunks=1, chunk_size=512))

    return write


def planned(checkpoint: Checkpoint, path: Path, type_: str = "Q4_K_M") -> Plan:
    return GGUF.plan.load()(checkpoint.index, GGUF.params(type=type_, imatrix=str(path)))


def test_the_matrix_weights_the_columns_of_its_tensor(small: Checkpoint, file_for: Write) -> None:
    path = file_for()
    run = Run(GGUF, GGUF.params(type="Q4_K_M", imatrix=str(path)), small)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = read_imatrix(path).entries["blk.0.ffn_up.weight"].means(1, 256)[0]

    made = {tensor.name: tensor.parts["packed"] for tensor in run.quantize()}

    values = np.array(small.tensor(name).values)
    assert np.array_equal(made[name], quantmill_kernels.encode("Q4_K", values, imatrix=weights))
    assert not np.array_equal(made[name], quantmill_kernels.encode("Q4_K", values))


def test_the_plan_and_the_file_name_the_matrix_by_its_digest(
    small: Checkpoint, file_for: Write, tmp_path: Path
) -> None:
    path = file_for()
    run = Run(GGUF, GGUF.params(type="Q2_K_S", imatrix=str(path)), small)
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()

    artifact, *_ = run.write(run.quantize(), tmp_path / "artifact")

    assert run.plan.inputs == {"imatrix": digest}
    keys = gguf.GGUFReader(artifact).fields
    assert keys["quantize.imatrix.file"].contents() == digest
    assert keys["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q2_K_S
    inspection = GGUF.inspect.load()(artifact.parent, run.plan, small.index, run.params)  # type: ignore[union-attr]
    assert [each for each in inspection.observations if not each.holds] == []


def test_a_matrix_that_changed_since_the_plan_ends_the_job(small: Checkpoint, file_for: Write) -> None:
    run = Run(GGUF, GGUF.params(imatrix=str(file_for())), small)
    plan = run.plan
    matrix = read_imatrix(file_for(blk_of_0_of_attn_q_of_weight=None))
    with pytest.raises(SourceRejected, match="has changed since the job was planned"):
        importance.require_unchanged(matrix, plan)


def entry(*values: float) -> Entry:
    return Entry(np.array(values, np.float32), np.ones(1, np.float32))


QUERY = "blk_of_0_of_attn_q_of_weight"


@pytest.mark.parametrize(
    ("changes", "type_", "message"),
    [
        (
            {QUERY: entry(1, 2, 3)},
            "Q4_K_M",
            r"another model: it has 3 values for blk\.0\.attn_q\.weight, not 1 x 256",
        ),
        ({QUERY: entry(*[1.0] * 255, float("nan"))}, "Q4_K_M", r"not finite, or negative, for blk\.0\.attn_q\.weight"),
        ({QUERY: entry(*[1.0] * 255, -1.0)}, "Q4_K_M", r"not finite, or negative, for blk\.0\.attn_q\.weight"),
        ({QUERY: None}, "Q2_K_S", r"has nothing for blk\.0\.attn_q\.weight, and Q2_K_S needs it there"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_at_once(
    small: Checkpoint, file_for: Write, changes: dict[str, Entry | None], type_: str, message: str
) -> None:
    with pytest.raises(ParamsRejected, match=message) as refused:
        planned(small, file_for(**changes), type_)
    assert refused.value.fields["errors"][0]["pointer"] == "/params/imatrix"


def test_a_matrix_of_none_of_the_tensors_is_refused(small: Checkpoint, tmp_path: Path) -> None:
    path = write_imatrix(tmp_path / "imatrix.gguf", ImportanceMatrix({"blk.9.attn_q.weight": entry(*[1.0] * 256)}))
    with pytest.raises(ParamsRejected, match=r"nothing for any quantized tensor.*first is 'blk\.9\.attn_q\.weight'"):
        planned(small, path)


def test_a_tensor_without_an_entry_is_named(small: Checkpoint, file_for: Write) -> None:
    warnings = planned(small, file_for(**{QUERY: None})).warnings
    assert "the importance matrix has nothing for 1 tensors, quantized without it: blk.0.attn_q.weight" in warnings


def test_experts_that_no_token_reached_are_named() -> None:
    experts = []
    for part in range(3):
        name, output = f"experts.{part}", "blk.0.ffn_up_exps.weight"
        row = TensorPlan(name, (8, 2), "BF16", "quantize", "Q4_0", output, 0)
        experts.append((row, ExpectedTensor(name, output, "ffn_up_exps", 0, (8, 2), (8, 2), parts=3, part=part)))
    matrix = ImportanceMatrix({"blk.0.ffn_up_exps.weight": EXPERTS})

    (warning,) = importance.check(matrix, experts, GGUF.params())

    assert warning.startswith("blk.0.ffn_up_exps.weight: no token of the importance matrix's text reached experts 1;")
    last = importance.importance_of(matrix, *experts[2])
    assert last is not None
    assert last.tolist() == EXPERTS.means(3, 2)[2].tolist()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"type": "Q2_K_S"}, "Q2_K_S is made with an importance matrix only"),
        ({"imatrix": "/no/such/file"}, "file cannot be read: No such file"),
    ],
)
def test_an_importance_matrix_that_is_missing_is_refused(
    small: Checkpoint, params: dict[str, str], message: str
) -> None:
    with pytest.raises(ParamsRejected, match=message):
        GGUF.plan.load()(small.index, GGUF.params(**params))


# Computed


def gathered(checkpoint: Checkpoint, plan: Plan, folder: Path) -> ImportanceMatrix:
    """What the calibration gives, as an importance matrix of one chunk."""
    assert plan.calibration is not None
    with calibrate(checkpoint, plan, calibration_ids(), folder=folder, threads=1, carries={}) as calibration:
        found = {name: calibration.statistics(name) for name in plan.calibration.weights}
    return ImportanceMatrix(
        {
            plan.by_name[name].output: Entry(
                each.second_moment[None] * each.tokens, np.array([each.tokens], np.float32)
            )
            for name, each in found.items()
            if each.second_moment is not None
        },
        chunks=1,
    )


def test_auto_is_what_a_file_of_the_same_statistics_gives(small: Checkpoint, tmp_path: Path) -> None:
    auto = Run(GGUF, GGUF.params(type="Q2_K_S", imatrix="auto"), small, calibrate, tmp_path)
    (tmp_path / "again").mkdir()
    path = write_imatrix(tmp_path / "imatrix.gguf", gathered(small, auto.plan, tmp_path / "again"))
    from_file = Run(GGUF, GGUF.params(type="Q2_K_S", imatrix=str(path)), small)

    made = {tensor.name: tensor.parts["packed"] for tensor in auto.quantize(threads=2)}

    assert auto.plan.calibration is not None
    assert "model.layers.0.self_attn.q_proj.weight" in auto.plan.calibration.weights
    assert "model.embed_tokens.weight" not in auto.plan.calibration.weights
    for tensor in from_file.quantize():
        assert np.array_equal(made[tensor.name], tensor.parts["packed"]), tensor.name


@dataclass(frozen=True)
class Computed:
    """A job with `imatrix=auto`, written."""

    source: Checkpoint
    run: Run
    folder: Path

    @property
    def matrix(self) -> Path:
        return self.folder / "imatrix.gguf_file"


@pytest.fixture(scope="module", params=[{"type": "Q4_0"}, {"target_bpw": 5.0}], ids=["a mix", "a budget"])
def of_experts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Computed]:
    """Of a mixture, whose experts saw different numbers of tokens."""
    folder = tmp_path_factory.mktemp("computed")
    with open_checkpoint(RANDOM_MODELS["mixtral, 4 experts"].write(folder / "model")) as source:
        run = Run(GGUF, GGUF.params(imatrix="auto", **request.param), source, calibrate, folder)
        run.write(run.quantize(), folder / "artifact")
        yield Computed(source, run, folder / "artifact")


def test_a_computed_matrix_lies_beside_the_model_and_is_named(of_experts: Computed) -> None:
    (model,) = of_experts.folder.glob("*.gguf")
    found = read_imatrix(of_experts.matrix).entries

    assert gguf.GGUFReader(model).fields["quantize.imatrix.file"].contents() == "imatrix.gguf_file"
    lines = (of_experts.folder / "README.md").read_text().splitlines()
    assert any(line.startswith("`imatrix.gguf_file` is the importance matrix") for line in lines)
    assert found["blk.0.attn_q.weight"].sums.size == 64
    assert found["blk.1.ffn_down_exps.weight"].fits(4, 96)
    assert len(set(found["blk.1.ffn_down_exps.weight"].counts.tolist())) > 1
    assert {f"{name}.weight" for name in ("token_embd", "output", "blk.0.attn_norm")}.isdisjoint(found)


def test_a_computed_matrix_makes_the_same_tensors_again(of_experts: Computed) -> None:
    params = of_experts.run.params.model_copy(update={"imatrix": str(of_experts.matrix)})
    again = Run(GGUF, params, of_experts.source)
    packed = dict(GGUF.weights(of_experts.folder))

    for tensor in again.quantize():
        row = again.plan.by_name[tensor.name]
        assert row.scheme == of_experts.run.plan.by_name[tensor.name].scheme
        if row.action == "quantize":
            decoded = quantmill_kernels.decode(row.scheme, tensor.parts["packed"], row.shape[-1])
            order = packed[tensor.name]
            assert np.array_equal(np.sort(decoded, axis=0), np.sort(order, axis=0)), tensor.name  # rope turns rows


def test_a_computed_matrix_is_no_weight_of_the_model(of_experts: Computed) -> None:
    plan = of_experts.run.plan
    size = of_experts.matrix.stat().st_size
    kept = sum(row.beside for row in plan.tensors)

    verification = verify(of_experts.source, plan, GGUF, of_experts.run.params, of_experts.folder)

    assert all(check.passed for check in verification.checks)
    assert kept < size < kept + 8192
    assert plan.nbytes == sum(row.nbytes for row in plan.tensors)
    assert Plan.from_json(plan.to_json()) == plan


def infinite(path: Path) -> None:
    reader = gguf.GGUFReader(path, "r+")
    next(tensor for tensor in reader.tensors if tensor.name.endswith("in_sum2")).data[0] = np.inf
    reader.data.flush()


def of_another_tensor(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"blk.0.attn_q", b"blk.0.attn_x"))


def gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (infinite, "finite and not negative"),
        (of_another_tensor, r"blk\.0\.attn_q\.weight\.counts.*blk\.0\.attn_x"),
        (gone, r"imatrix\.gguf_file"),
    ],
)
def test_a_damaged_computed_matrix_fails_the_job(
    of_experts: Computed, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = shutil.copytree(of_experts.folder, tmp_path / "artifact")
    damage(folder / "imatrix.gguf_file")
    with pytest.raises(VerificationFailed, match=message):
        verify(of_experts.source, of_experts.run.plan, GGUF, of_experts.run.params, folder)


def test_a_type_that_ignores_importance_computes_none(small: Checkpoint, tmp_path: Path) -> None:
    run = Run(GGUF, GGUF.params(type="Q8_0", imatrix="auto"), small)
    assert sum(row.beside for row in run.plan.tensors) == 0

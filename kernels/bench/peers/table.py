"""What people use today: a folder each, with requirements.txt, theirs.py (runs in its environment) and ours.py."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kernels.bench.peers.bitsandbytes import ours as bitsandbytes
from kernels.bench.peers.cases import Case
from kernels.bench.peers.ggml import ours as ggml
from kernels.bench.peers.gguf import ours as gguf
from kernels.bench.peers.hqq import ours as hqq
from kernels.bench.peers.llm_compressor import ours as llm_compressor
from kernels.bench.peers.torch_fp8 import ours as torch_fp8

PEERS: Mapping[str, Callable[[], Iterator[Case]]] = {
    "ggml": ggml.cases,
    "gguf": gguf.cases,
    "hqq": hqq.cases,
    "bitsandbytes": bitsandbytes.cases,
    "torch_fp8": torch_fp8.cases,
    "llm_compressor": llm_compressor.cases,
}

# Peers without requirements of their own: the kind, the name and the requirements of the environment that they share.
SHARED: Mapping[str, tuple[str, str, Path]] = {
    "ggml": ("conformance", "llama_cpp", Path("tests", "conformance", "llama_cpp", "requirements.txt")),
}

"""What people use today: a folder each, with requirements.txt, theirs.py (runs in its environment) and ours.py."""

from collections.abc import Callable, Iterator, Mapping

from kernels.bench.peers.bitsandbytes import ours as bitsandbytes
from kernels.bench.peers.cases import Case
from kernels.bench.peers.hqq import ours as hqq
from kernels.bench.peers.llm_compressor import ours as llm_compressor
from kernels.bench.peers.torch_fp8 import ours as torch_fp8

PEERS: Mapping[str, Callable[[], Iterator[Case]]] = {
    "bitsandbytes": bitsandbytes.cases,
    "hqq": hqq.cases,
    "llm_compressor": llm_compressor.cases,
    "torch_fp8": torch_fp8.cases,
}

"""The CUDA kernels without a GPU: for both architectures they compile without spills, and on an emulator of warps
(cuda_emulator.h) they compute the right numbers."""

from __future__ import annotations

import re
import runpy
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from torch.utils import cpp_extension

from eokit.ops.attention.autograd import MOST_QUERIES

REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted((REPOSITORY / "csrc/cuda").glob("*.cu"))
SETUP = runpy.run_path(str(REPOSITORY / "setup.py"), run_name="flags")
ARCHITECTURES = (80, 90)
NVCC, GXX = shutil.which("nvcc"), shutil.which("g++")
TOLD = ["-Xptxas", "-v,-warn-spills"]

# What ptxas -v says of one kernel.
KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)

pytestmark = pytest.mark.slow
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the path")


def build_flags(architectures: str) -> list[str]:
    """What a build of setup.py hands to nvcc: torch's own flags, those of setup.py, and the architectures."""
    with pytest.MonkeyPatch.context() as only:
        only.setenv("TORCH_CUDA_ARCH_LIST", architectures)
        code = cpp_extension._get_cuda_arch_flags()
    return [*cpp_extension.COMMON_NVCC_FLAGS, "--compiler-options", "-fPIC", *SETUP["CUDA_FLAGS"], *code]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, Future]:
    """Source -> what nvcc printed; two at a time, the longest first, and both architectures at once."""
    folder = tmp_path_factory.mktemp("cuda")

    def compile(source: Path) -> subprocess.CompletedProcess:
        include = [word for folder in cpp_extension.include_paths("cpu") for word in ("-isystem", folder)]
        into = ["--threads", "2", "-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        command = [str(NVCC), *build_flags(SETUP["CUDA_ARCHITECTURES"]), *TOLD, *include, *into]
        return subprocess.run(command, capture_output=True, text=True, timeout=500)

    with ThreadPoolExecutor(2) as pool:
        yield {one.stem: pool.submit(compile, one) for one in SOURCES}


def test_there_is_something_to_compile():
    assert {source.stem for source in SOURCES} == {"attention_backward", "attention_forward", "tokens"}


def test_what_is_compiled_here_is_what_a_build_ships():
    flags = build_flags(SETUP["CUDA_ARCHITECTURES"])
    code = [flag for flag in flags if flag.startswith("-gencode")]
    assert code == [
        f"-gencode=arch=compute_{one},code={kind}" for one, kind in ((80, "sm_80"), (90, "compute_90"), (90, "sm_90"))
    ]


@needs_nvcc
@pytest.mark.parametrize("source", [source.stem for source in SOURCES])
def test_every_kernel_compiles_without_stack_and_spills(compiled, source):
    done = compiled[source].result()
    assert done.returncode == 0, done.stderr[-4000:]
    told = done.stdout + done.stderr
    kernels = list(KERNEL.finditer(told))
    assert len(kernels) == told.count("Compiling entry function") > 0
    assert all(told.count(f"for 'sm_{one}'") == len(kernels) / len(ARCHITECTURES) for one in ARCHITECTURES)
    for kernel in kernels:
        print(kernel["name"], kernel["registers"], "registers")  # pytest -rP shows them
        found = {what: int(kernel[what]) for what in ("stack", "stores", "loads")}
        assert found == {"stack": 0, "stores": 0, "loads": 0}, kernel["name"]
        assert int(kernel["registers"]) * 256 <= 65536  # a block of eight warps has them all


@pytest.fixture(scope="module")
def emulation(tmp_path_factory) -> Path:
    if GXX is None:
        pytest.skip("no g++ on the path")
    program = tmp_path_factory.mktemp("emulation") / "emulate_cuda"
    source = Path(__file__).with_name("emulate_cuda.cpp")
    command = [GXX, "-std=c++20", "-O1", "-fno-strict-aliasing", "-w", str(source), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return program


@pytest.mark.parametrize("order", ["forwards", "backwards"])
def test_on_the_emulator_the_kernels_agree_with_plain_loops(emulation, order):
    """Whichever thread goes first: a missing barrier shows in one of the two orders."""
    done = subprocess.run([str(emulation), order, str(MOST_QUERIES)], capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, "\n".join(line for line in lines if not line.startswith("ok"))
    assert lines[-1] == "0 off"
    assert sum(line.startswith("ok") for line in lines) > 60

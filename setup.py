"""Packages and compiled libraries; everything else is in pyproject.toml.

The compiled libraries are optional: where they cannot be built the package is installed without them, and
eokit/_build_report.json keeps the reason for `eokit doctor`.
"""

import json
import os
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

INSTALL = "install it, then eokit with --no-build-isolation"
try:
    from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    from torch.version import cuda as cuda_of_torch

    NOT_THERE = ""
except ImportError as error:
    NOT_THERE = f"the build has no torch ({error}); {INSTALL}"
try:
    from pybind11 import get_include

    NO_NATIVE = ""
except ImportError as error:  # machines with a GPU may have torch and little else
    NO_NATIVE = f"the build has no pybind11 ({error}); {INSTALL}"

TORCH_TARGET = "0x020b000000000000"  # torch 2.11: the oldest whose stable ABI has what csrc/ uses
# GCC warns of its own AVX-512 headers, and of vector types in functions that are inlined anyway.
QUIET = ["-Wno-psabi", "-Wno-maybe-uninitialized"]
STABLE = ["-DTORCH_STABLE_ONLY", f"-DTORCH_TARGET_VERSION={TORCH_TARGET}"]
CUDA_FLAGS = ["-O3", "-std=c++20", "-Xcompiler=-fvisibility=hidden", "-DUSE_CUDA", *STABLE]
CUDA_ARCHITECTURES = "8.0;9.0+PTX"  # unless TORCH_CUDA_ARCH_LIST says otherwise
FLAGS = ["-O3", "-g0", "-std=c++20", "-fno-math-errno", "-fvisibility=hidden", "-Wall", *QUIET]


def extensions():
    """The compiled libraries; none where the build has no torch, and no `_native` without pybind11."""
    if NOT_THERE:
        print(f"eokit: compiled libraries left out, {NOT_THERE}", file=sys.stderr)
        return []

    kernels = ["csrc/library.cpp", *sorted(map(str, Path("csrc/cpu").glob("*.cpp")))]
    headers = sorted(map(str, Path("csrc").rglob("*.h")))
    return [
        # Nothing of Python is used in _C, it is loaded by torch; so no link against torch_python.
        CppExtension("eokit._C", kernels, depends=headers, extra_compile_args=FLAGS + STABLE, py_limited_api=True),
        *native_extension(headers),
        *cuda_extension(headers),
    ]


def native_extension(headers):
    """[eokit._native], loaded by processes that only read data, so it is linked against nothing of torch."""
    if NO_NATIVE:
        print(f"eokit: eokit._native left out, {NO_NATIVE}", file=sys.stderr)
        return []
    sources = ["csrc/native.cpp", *sorted(map(str, Path("csrc/data").glob("*.cpp")))]
    facts = [f'-DEOKIT_FLAGS="{" ".join(FLAGS)}"', f'-DEOKIT_TORCH_TARGET="{TORCH_TARGET}"']
    options = {"include_dirs": [get_include()], "extra_compile_args": FLAGS + facts, "language": "c++"}
    return [Extension("eokit._native", sources, depends=headers, **options)]


def cuda_extension(headers):
    """[eokit._C_cuda], or [] where `no_cuda` has a reason."""
    if no_cuda():
        return []
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
    kernels = sorted(map(str, Path("csrc/cuda").glob("*.cu")))
    flags = {"cxx": FLAGS + STABLE, "nvcc": CUDA_FLAGS}
    return [CUDAExtension("eokit._C_cuda", kernels, depends=headers, extra_compile_args=flags, py_limited_api=True)]


def no_cuda():
    """Why the CUDA kernels are not built, "" if they are. What the build machine's GPU is, if any, has no say in it."""
    wanted = os.environ.get("EOKIT_WITH_CUDA", "")
    if wanted == "0":
        return "left out, EOKIT_WITH_CUDA=0"
    reason = "" if CUDA_HOME else "left out, the build found no nvcc; put it on the path or set CUDA_HOME"
    if not cuda_of_torch:
        reason = "left out, the torch of the build has no CUDA; install a CUDA build of torch first"
    if wanted == "1" and reason:
        sys.exit(f"eokit: EOKIT_WITH_CUDA=1, but the CUDA kernels are {reason}")
    return reason


def build_commands():
    """A build_ext that goes on without the libraries when they do not build; either way the report is written."""
    if NOT_THERE:  # then there is nothing for build_ext to do, and it is not called

        class Explain(build_py):
            def run(self):
                super().run()
                write_report(self, NOT_THERE, NOT_THERE)

        return {"build_py": Explain}

    class BuildOrExplain(BuildExtension):
        def run(self):
            outcome, cuda = self.attempt(), no_cuda()
            if not cuda:  # kernels for a GPU that do not build must not cost the others
                cuda = outcome
                if outcome != "built":
                    self.extensions = [one for one in self.extensions if not one.name.endswith("_C_cuda")]
                    outcome = self.attempt()
            if outcome != "built":
                self.extensions = []
            write_report(self, outcome, cuda)

        def attempt(self):
            inplace = self.inplace
            try:
                super().run()
            except Exception as error:  # whatever a compiler, ninja or torch may raise
                self.inplace = inplace  # setuptools puts it aside for the length of a run
                told = f"the build failed with the C++ compiler {os.environ.get('CXX', 'c++')!r}: {_one_line(error)}"
                print(f"eokit: compiled libraries left out, {told}", file=sys.stderr)
                return told
            return "built"

    return {"build_ext": BuildOrExplain}


def write_report(command, outcome, cuda):
    """Keep beside the package what became of its libraries."""
    into_source = getattr(command, "inplace", False) or getattr(command, "editable_mode", False)
    package = Path("eokit") if into_source else Path(command.build_lib, "eokit")
    package.mkdir(parents=True, exist_ok=True)
    report = {"_C": outcome, "_native": NO_NATIVE or outcome, "_C_cuda": cuda}
    (package / "_build_report.json").write_text(json.dumps(report) + "\n")


def _one_line(error):
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


if __name__ == "__main__":  # tests read the flags
    setup(
        packages=[*find_packages(include=["eokit", "eokit.*"]), "eokit_cli", "eokit_bench"],
        package_dir={"eokit_cli": "cli", "eokit_bench": "benchmarks"},
        ext_modules=extensions(),
        cmdclass=build_commands(),
    )

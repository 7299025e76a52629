"""What this machine can run and why something is missing: the facts behind `eokit doctor`.

Collected only when asked for; nothing here is imported by the rest of eokit.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from eokit import __version__
from eokit.cores import cores
from eokit.memory import freed_memory

LIBRARIES = {
    "torch": "core",
    "numpy": "core",
    "zarr": "core",
    "numcodecs": "core",
    "pyarrow": "core",
    "scikit-learn": "core",
    "torchmetrics": "core",
    "rasterio": "eokit[geo]",
    "pyproj": "eokit[geo]",
    "geopandas": "eokit[geo]",
    "h5py": "eokit[geo]",
    "matplotlib": "eokit[viz]",
    "triton": "comes with a CUDA build of torch",
}


def examine() -> dict[str, Any]:
    """Versions, threads, devices, compiled backends, GDAL and a self-test, as plain values ready for JSON."""
    checks = {
        "attention": _check_attention,
        "store chunk": _check_chunk,
        "GeoTIFF": _check_geotiff,
    }
    return {
        "eokit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "machine": _machine(),
        "backends": _backends(),
        "ops": _ops(),
        "gdal": _gdal(),
        "self_test": {name: _run(check) for name, check in checks.items()},
    }


def healthy(report: dict[str, Any]) -> bool:
    """Whether every part of the self-test that could run came out right."""
    return all(one["ok"] is not False for one in report["self_test"].values())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    import torch

    return {
        "cores": cores(),
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "freed_memory": freed_memory(),
        "free_disk_gib": round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "executable": sys.executable,
    }


def _backends() -> list[dict[str, Any]]:
    from dataclasses import asdict

    from eokit.ops import backends

    return [*(asdict(one) for one in backends()), _decoder()]


def _decoder() -> dict[str, Any]:
    """The compiled decoder of stored chunks, in the words of a backend."""
    from eokit.ops.library import BUILD_REPORT, PACKAGE

    try:
        import eokit._native as native
    except ImportError as error:
        if list(PACKAGE.glob("_native.*")):
            why = f"it does not load: {' '.join(str(error).split())}"
        else:
            why = f"it is not in {PACKAGE}: {_build_outcome(BUILD_REPORT)}"
        return {"name": "decoder", "available": False, "reason": f"stores are decoded by numcodecs, slower; {why}"}
    file, compiler = Path(str(native.__file__)).name, native.build_info()["compiler"]
    reason = f"of stores, {file} by {compiler}; this CPU runs {', '.join(native.instruction_sets())}"
    return {"name": "decoder", "available": True, "reason": reason}


def _build_outcome(report: Path) -> str:
    try:
        return json.loads(report.read_text())["_native"]
    except (OSError, ValueError, KeyError):
        return "it was never built; install eokit with a C++ compiler on the path"


def _ops() -> dict[str, str]:
    import torch

    from eokit.ops import placement

    return placement("cuda" if torch.cuda.is_available() else "cpu")


def _gdal() -> dict[str, Any]:
    try:
        import rasterio
    except ImportError as error:
        return {"version": None, "missing": f"{error}; pip install 'eokit[geo]'"}
    with rasterio.Env() as env:
        drivers = env.drivers()
    return {"version": rasterio.__gdal_version__, "cog": "COG" in drivers}


def _run(check: Callable[[], str]) -> dict[str, Any]:
    start = time.perf_counter()
    ok: bool | None = True
    try:
        note = check()
    except ModuleNotFoundError as error:
        note, ok = f"not installed: {error.name}", None if error.name in ("rasterio", "pyproj") else False
    except Exception as error:
        note, ok = f"{type(error).__name__}: {error}", False
    return {"ok": ok, "note": note, "seconds": round(time.perf_counter() - start, 3)}


def _check_attention() -> str:
    import torch

    from eokit.ops import attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 17, 2, 32, generator=generator, requires_grad=True) for _ in range(3))
    mask = torch.rand(8, 17, generator=generator) > 0.3
    ours, truth = (attention(q, k, v, key_mask=mask, backend=name) for name in (None, "reference"))
    error = (ours - truth).abs().max().item()
    for one, other in zip(
        torch.autograd.grad(ours.sum(), (q, k, v)), torch.autograd.grad(truth.sum(), (q, k, v)), strict=True
    ):
        error = max(error, (one - other).abs().max().item())
    if error > 1e-4:
        raise ArithmeticError(f"differs from the reference by {error:.1e}")
    return f"forward and backward agree with the reference to {error:.0e}"


def _check_chunk() -> str:
    import numpy as np
    from numcodecs import Blosc

    chunk = np.random.default_rng(0).normal(3000, 400, (8, 10, 32, 32)).astype(np.int16)
    packed = Blosc(cname="lz4", shuffle=Blosc.SHUFFLE).encode(chunk)
    unpacked = np.frombuffer(Blosc().decode(packed), np.int16).reshape(chunk.shape)
    if not np.array_equal(chunk, unpacked):
        raise ArithmeticError("a chunk changed in a blosc round trip")
    try:
        from eokit._native import decode_rows
    except ImportError:
        return "a chunk survives a blosc round trip through numcodecs"
    rows, _, height, width = chunk.shape
    decoded = np.zeros_like(chunk)
    known = decode_rows([packed], chunk.shape, [(0, 0, rows)], (0, height, 0), [(0, width, 0)], decoded)
    if not (known and np.array_equal(chunk, decoded)):
        raise ArithmeticError("a chunk changed in the compiled decoder")
    return "a chunk survives a blosc round trip, and the compiled decoder agrees"


def _check_geotiff() -> str:
    import numpy as np
    from rasterio import Affine
    from rasterio.io import MemoryFile

    classes = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    with MemoryFile() as memory:
        grid = {"crs": "EPSG:32631", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
        with memory.open(driver="COG", height=64, width=64, count=1, dtype="uint8", **grid) as file:
            file.write(classes, 1)
        with memory.open() as file:
            if not np.array_equal(file.read(1), classes):
                raise ArithmeticError("a Cloud-Optimized GeoTIFF changed in a round trip")
    return "a Cloud-Optimized GeoTIFF survives a round trip"

"""A forward of AnySat, beside plain torch that does what the published code does with the same weights.

Inputs and weights are random. Two scenes, those on which the published code was profiled: a crop of a PASTIS-HD tile,
whose time goes into the series projectors, and TreeSatAI tiles, whose time goes into the spatial encoder.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from eokit.errors import UsageError
from eokit.models.anysat import build, reference
from eokit.models.anysat.model import AnySat, Observed
from eokit.models.anysat.presets import PRESETS
from eokit.models.anysat.sensors import SENSORS
from eokit.models.base import Features
from eokit.nn.device import pick_device
from eokit_bench.machine import refuse_if_too_large
from eokit_bench.measure import Case, Prepared, Results, Truth, Work
from eokit_bench.registry import AnySatSettings

Encode = Callable[[AnySat, Mapping[str, Observed], int, str | None], Features]
CONTENDERS: dict[str, Encode] = {"eokit": AnySat.encode, "plain torch": reference.encode}


@dataclass(frozen=True)
class Scene:
    """What is encoded. dates: of each series, 1 of an image. dense: whose sub-patches are told, None for the tile."""

    tiles: int
    metres: int
    dates: Mapping[str, int]
    patch_metres: int
    dense: str | None


SCENES = {
    "pastis": Scene(1, 320, {"s2": 61, "s1": 140, "spot": 1}, 40, "s2"),
    "treesatai": Scene(4, 60, {"aerial": 1, "s2": 60, "s1-asc": 60}, 10, None),
}


def cases(settings: AnySatSettings) -> list[Case]:
    """By scene and dtype."""
    if settings.preset not in PRESETS:
        raise UsageError(f"--preset {settings.preset}: AnySat comes as {', '.join(PRESETS)}")
    device, found = pick_device(settings.device), []
    for name, dtype in itertools.product(settings.scene, settings.dtype):
        scene = SCENES[name]
        dates = {sensor: min(count, settings.most_dates) for sensor, count in scene.dates.items()}
        metres = settings.metres or scene.metres
        if metres % scene.patch_metres:
            raise UsageError(f"--metres {metres} is no multiple of {scene.patch_metres} m, the patches of {name}")
        with torch.device("meta"):
            encoder = make(settings.preset, scene)
        longest = max(dates.values()) * scene.tiles * (metres // 10) ** 2
        refuse_if_too_large(8 * 5 * longest * encoder.width, device, "--metres")
        at: dict[str, Any] = {"scene": name, "preset": settings.preset, "B": scene.tiles}
        at |= {"tiles": f"tiles of {metres} m", "T": series(dates), "patches": f"patches of {scene.patch_metres} m"}
        at |= {"dtype": dtype, "pass": "forward"}
        told = Work(None, flops(encoder, scene, dates, metres))
        prepare = partial(set_up, settings.preset, scene, dates, metres, getattr(torch, dtype), device)
        found.append(Case(at, tuple(CONTENDERS), prepare, lambda contender, told=told: told))
    return found


def series(dates: Mapping[str, int]) -> str:
    """What each sensor saw, in words."""
    return ", ".join(f"{name} {count} dates" if count > 1 else f"{name} 1 image" for name, count in dates.items())


def make(preset: str, scene: Scene) -> AnySat:
    """The encoder that the scene's sensors take, in the published form."""
    bands = {name: len(SENSORS[name].bands) for name in scene.dates}
    return build({**PRESETS[preset], "modalities": bands, "bias_heads": "first"}).eval()


def flops(encoder: AnySat, scene: Scene, dates: Mapping[str, int], metres: int) -> int:
    """Operations of the matrix products of the published code, a multiply and an add each."""
    d, depth, total, tokens = encoder.width, encoder.config.depth, 0, 1
    patches = (metres // scene.patch_metres) ** 2
    layer = 12 * d * d  # multiplications of a block's linear layers a token
    for name, count in dates.items():
        sensor = SENSORS[name]
        cells = round(metres / sensor.subpatch) ** 2
        if sensor.is_image:
            total += cells * (len(sensor.bands) * sensor.patch**2 * d + 4 * d * d)
        else:
            rows = len(sensor.bands) * d // 8 + d // 8 * d // 2 + d // 2 * d + 4 * d * d + 128 * d
            total += cells * (count * rows + d * d)
        length = cells // patches + 1
        total += depth * patches * length * (layer + 2 * length * d)
        tokens += patches
    total += depth * tokens * (layer + 2 * tokens * d)
    total += 2 * tokens * d * d + (patches + 1) * (9 * d * d + 2 * tokens * d)
    return 2 * scene.tiles * total


def set_up(
    preset: str, scene: Scene, dates: Mapping[str, int], metres: int, dtype: torch.dtype, device: torch.device
) -> Prepared:
    """One encoder with a distance bias that counts, and what its sensors saw; in half precision under autocast."""
    torch.manual_seed(0)
    encoder = make(preset, scene).to(device)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if name.endswith("bias.table"):
                torch.nn.init.normal_(weight, std=0.3)
    observed = random_scene(scene, dates, metres, device)

    def run(encode: Encode) -> Results:
        half = torch.autocast(device.type, dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with torch.inference_mode(), half:
            return {"out": told(encode(encoder, observed, scene.patch_metres, scene.dense)).float()}

    @cache
    def truth() -> Truth:
        wide = copy.deepcopy(encoder).double()
        exactly = {name: one._replace(values=one.values.double()) for name, one in observed.items()}
        with torch.inference_mode():
            exact = told(reference.encode(wide, exactly, scene.patch_metres, scene.dense))
        return Truth({"out": exact}, run(reference.encode), computed=dtype)

    return Prepared({name: partial(run, encode) for name, encode in CONTENDERS.items()}, lambda name: truth())


def random_scene(scene: Scene, dates: Mapping[str, int], metres: int, device: torch.device) -> dict[str, Observed]:
    """What the scene's sensors saw of `metres` x `metres`: noise, at dates spread over a year."""
    observed = {}
    for name, count in dates.items():
        sensor = SENSORS[name]
        edge = round(metres / sensor.gsd)
        values = torch.randn(scene.tiles, count, len(sensor.bands), edge, edge, device=device)
        days = torch.linspace(1, 365, count, device=device).round().expand(scene.tiles, count)
        observed[name] = Observed(sensor, values, days)
    return observed


def told(features: Features) -> Tensor:
    """The dense map where there is one, else the tile's vector."""
    return features.tile if features.dense is None else features.dense

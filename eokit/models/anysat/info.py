"""What AnySat is, for `eokit models`."""

from __future__ import annotations

from eokit.models.anysat.sensors import SENSORS, AnySatSensor
from eokit.models.info import ModelInfo, SensorRow

URL = "https://huggingface.co/g-astruc/AnySat/resolve/main/models/AnySat.pth"
"""The published weights."""


def _row(sensor: AnySatSensor) -> SensorRow:
    count = len(sensor.bands)
    shape = f"(1, {count}, H, W)" if sensor.is_image else f"(T, {count}, {'1, 1' if sensor.whole_tile else 'H, W'})"
    return SensorRow(sensor.name, sensor.title, shape, sensor.bands, sensor.gsd)


INFO = ModelInfo(
    name="anysat",
    title="AnySat",
    summary="one encoder for any subset of eleven sensors, any extent and patches of any multiple of 10 m",
    sensors=tuple(_row(sensor) for sensor in SENSORS.values()),
    presets={"base": 125_905_447, "small": 43_811_271, "tiny": 8_135_015},
    code_licence="this implementation Apache-2.0; the published code MIT",
    weights_licence="published with the MIT code, no licence of their own known here; see the page of the weights",
    citation="Astruc et al., AnySat: One Earth Observation Model for Many Resolutions, Scales, and Modalities,"
    " CVPR 2025, arXiv:2412.14123",
    weights=f"{URL} (only base is published; `eokit models convert anysat` reads it)",
    parity="ten recorded cases of the published hub module (flash_attn=False), under weights made by formula, agree"
    " within 2e-5 of the largest value; l7, alos, modis and masks have no recorded outputs: the sensors, and masked"
    " series of the published form, are held to a forward written out by hand; the published weights were not loaded",
)

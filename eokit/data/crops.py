"""The crop legend of PASTIS: names by class id, and which id is no label.

The one place where these names are written; read by the PASTIS format, the synthetic season and the pictures.
Source: Garnot and Landrieu, "Panoptic Segmentation of Satellite Image Time Series", ICCV 2021, and its data card.
"""

from __future__ import annotations

PASTIS_CLASSES = (
    "Background",
    "Meadow",
    "Soft winter wheat",
    "Corn",
    "Winter barley",
    "Winter rapeseed",
    "Spring barley",
    "Sunflower",
    "Grapevine",
    "Beet",
    "Winter triticale",
    "Winter durum wheat",
    "Fruits, vegetables, flowers",
    "Potatoes",
    "Leguminous fodder",
    "Soybeans",
    "Orchard",
    "Mixed cereal",
    "Sorghum",
    "Void",
)
"""Class names by id: 18 crops, 1 to 18, between background and void."""

VOID = 19
"""A parcel that lies mostly outside its patch, or whose crop is not one of the 18: ignored in every score."""

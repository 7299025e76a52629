"""Colours of classes, the same in maps, matrices, curves and legends.

The 18 crops of PASTIS have colours of their own: chosen by hand after the look of the crop, then moved apart by a
search that maximised the least distances in CIELAB for normal, protan and deutan eyes (simulated after Machado et al.
2009). The least distance of any two, grey background and white void included, is 28 (normal) and 21 (protan, deutan).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from eokit.data.crops import PASTIS_CLASSES

Colour = tuple[int, int, int]
"""Red, green, blue, 0..255."""

BACKGROUND_COLOUR: Colour = (224, 224, 224)
VOID_COLOUR: Colour = (255, 255, 255)

CROP_COLOURS: dict[str, Colour] = {
    "Meadow": (177, 227, 125),
    "Soft winter wheat": (246, 221, 85),
    "Corn": (227, 133, 15),
    "Winter barley": (163, 152, 82),
    "Winter rapeseed": (254, 255, 39),
    "Spring barley": (152, 198, 152),
    "Sunflower": (145, 72, 48),
    "Grapevine": (101, 15, 110),
    "Beet": (122, 62, 102),
    "Winter triticale": (86, 120, 169),
    "Winter durum wheat": (56, 87, 177),
    "Fruits, vegetables, flowers": (255, 163, 239),
    "Potatoes": (43, 25, 45),
    "Leguminous fodder": (15, 145, 108),
    "Soybeans": (84, 160, 165),
    "Orchard": (19, 41, 15),
    "Mixed cereal": (255, 255, 198),
    "Sorghum": (185, 67, 15),
}

_KNOWN = dict(zip(PASTIS_CLASSES, (BACKGROUND_COLOUR, *CROP_COLOURS.values(), VOID_COLOUR), strict=True))


def class_colors(classes: int | Sequence[str]) -> list[Colour]:
    """A colour for each of `classes` (names, or how many); known crops, background and void keep theirs.

    Other classes get hues a golden angle apart, in two steps of brightness.
    """
    names = [str(number) for number in range(classes)] if isinstance(classes, int) else classes
    return [_KNOWN.get(name) or _spread(number) for number, name in enumerate(names)]


def _spread(number: int) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb((0.07 + 0.618034 * number) % 1, 0.65, 0.9 if number % 2 else 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)

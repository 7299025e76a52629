"""What the 18 crops of PASTIS do in a SYNTHETIC year: sowing, growth, flowering, cuts, senescence, harvest.

Days count from 1 January of the harvest year (negative: the autumn before), for central France. The numbers are typical
calendars and leaf areas as agronomy handbooks give them, rounded by hand: approximate, fitted to no data.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER = 999.0
"""A day after the end of every season."""


@dataclass(frozen=True)
class Growth:
    """A double logistic of green leaf area: `lai` between half-rise at day `rise` and half-fall at day `fall`."""

    lai: float
    rise: float
    rise_days: float
    fall: float
    fall_days: float


@dataclass(frozen=True)
class Leaf:
    """How a crop's closed green canopy differs from the mean one: factors by region of the spectrum."""

    visible: float = 1.0
    red_edge: float = 1.0
    infrared: float = 1.0
    shortwave: float = 1.0


@dataclass(frozen=True)
class Echo:
    """C-band backscatter of the closed canopy (dB), and how fast it hides the soil: attenuation per unit of biomass."""

    vv: float = -10.5
    vh: float = -16.0
    attenuation: float = 0.35


@dataclass(frozen=True)
class Crop:
    """One crop: its place in the legend, its calendar, its look. Days as in the module's docstring."""

    class_id: int
    parcels: float
    growth: tuple[Growth, ...]
    brown: float = 0.0
    """Dead leaf and straw area index between senescence and harvest."""
    harvest: float = NEVER
    sowing: float = -NEVER
    """Before it the field shows what the year before left."""
    jitter: float = 7.0
    """Standard deviation (days) of a parcel's calendar."""
    vigour: float = 0.13
    flower: tuple[float, float, float] = (NEVER, 1.0, 0.0)
    """Day of full bloom, half length (days), share of the canopy that turns yellow."""
    cuts: tuple[float, float, float] = (0.0, 40.0, 0.0)
    """Mean number of cuts, days between them, share of the leaf area that a cut takes."""
    bare_rows: float = 0.0
    """Share of the ground that stays open between rows."""
    base: float = 0.0
    """Green leaf area that stays all year under what grows and falls."""
    drought: float = 0.0
    """Share of the leaf area that a dry summer takes."""
    wood: float = 0.0
    """Biomass that the radar sees even without leaves."""
    leaf: Leaf = Leaf()
    echo: Echo = Echo()

    @property
    def perennial(self) -> bool:
        """Whether the crop stood there the year before as well."""
        return self.sowing == -NEVER


CEREAL = Echo(vv=-14.6, vh=-20.8, attenuation=0.4)  # upright stalks hide the soil in spring and scatter little
BROAD = Echo(vv=-9.3, vh=-14.8, attenuation=0.40)

CROPS = (
    Crop(1, 31292, (Growth(2.2, 88, 13, 310, 22),),
         base=1.2, drought=0.5, brown=0.5, jitter=10, vigour=0.25, cuts=(1.8, 48, 0.65),
         leaf=Leaf(1.1, 1.05, 0.95, 1.0), echo=Echo(-11.5, -17.8, 0.3)),
    Crop(2, 8206, (Growth(0.8, -30, 12, 172, 7), Growth(4.6, 84, 11, 173, 7)),
         brown=2.6, harvest=199, sowing=-72, leaf=Leaf(0.95, 1.0, 1.0, 1.0), echo=CEREAL),
    Crop(3, 13123, (Growth(5.0, 163, 8, 256, 10),),
         brown=1.8, harvest=275, sowing=114, jitter=9, leaf=Leaf(1.0, 1.05, 0.97, 1.0), echo=Echo(-10.2, -15.6, 0.33)),
    Crop(4, 2766, (Growth(1.3, -48, 10, 150, 6), Growth(4.2, 72, 11, 154, 6)),
         brown=2.4, harvest=182, sowing=-88, leaf=Leaf(1.05, 1.06, 0.99, 1.04), echo=CEREAL),
    Crop(5, 1769, (Growth(2.6, -100, 10, -20, 16), Growth(1.0, -60, 12, 150, 9), Growth(3.8, 66, 9, 160, 9)),
         brown=2.0, harvest=189, sowing=-124, flower=(106, 14, 0.6), leaf=Leaf(1.05, 1.08, 1.1, 0.95),
         echo=Echo(-9.4, -13.8, 0.45)),
    Crop(6, 908, (Growth(4.3, 111, 8, 178, 6),),
         brown=2.2, harvest=203, sowing=66, leaf=Leaf(1.06, 1.06, 0.97, 1.05), echo=CEREAL),
    Crop(7, 1355, (Growth(3.3, 156, 8, 228, 8),),
         brown=1.5, harvest=256, sowing=104, flower=(194, 8, 0.22), leaf=Leaf(1.08, 1.1, 1.05, 0.95), echo=BROAD),
    Crop(8, 10640, (Growth(1.7, 136, 12, 292, 10), Growth(0.6, -40, 20, 120, 20)),
         base=0.25, wood=0.5, drought=0.1, brown=0.2, jitter=7, vigour=0.22, bare_rows=0.3,
         leaf=Leaf(1.0, 1.0, 0.92, 1.0), echo=Echo(-10.8, -18.3, 0.2)),
    Crop(9, 871, (Growth(4.3, 151, 9, 330, 16),),
         harvest=284, sowing=82, jitter=10, leaf=Leaf(1.0, 0.95, 1.15, 0.86), echo=Echo(-9.6, -14.2, 0.45)),
    Crop(10, 1208, (Growth(1.1, -38, 12, 168, 8), Growth(4.2, 80, 12, 177, 8)),
         brown=2.9, harvest=203, sowing=-80, leaf=Leaf(1.1, 1.1, 0.93, 1.1), echo=CEREAL),
    Crop(11, 1704, (Growth(0.5, -15, 12, 158, 7), Growth(3.5, 76, 11, 162, 7)),
         brown=2.1, harvest=186, sowing=-58, leaf=Leaf(1.1, 0.97, 0.95, 1.12), echo=Echo(-13.6, -20.0, 0.34)),
    Crop(12, 2619, (Growth(2.6, 128, 9, 200, 10), Growth(2.0, 222, 9, 300, 12)),
         harvest=305, sowing=85, jitter=24, vigour=0.3, bare_rows=0.18, leaf=Leaf(1.05, 1.05, 1.05, 0.95),
         echo=Echo(-9.8, -16.2, 0.35)),
    Crop(13, 551, (Growth(4.4, 152, 7, 224, 6),),
         brown=0.9, harvest=254, sowing=102, leaf=Leaf(1.05, 1.08, 1.12, 0.9), echo=Echo(-8.6, -14.4, 0.4)),
    Crop(14, 3174, (Growth(3.4, 76, 10, 312, 18),),
         base=0.9, drought=0.15, brown=0.3, jitter=8, vigour=0.17, cuts=(4.2, 37, 0.82),
         leaf=Leaf(0.95, 0.97, 1.08, 0.96), echo=Echo(-10.8, -16.2, 0.36)),
    Crop(15, 1212, (Growth(5.2, 176, 7, 250, 6),),
         brown=1.1, harvest=270, sowing=126, leaf=Leaf(1.02, 1.0, 1.18, 0.98), echo=Echo(-9.8, -15.4, 0.4)),
    Crop(16, 2998, (Growth(2.3, 98, 9, 305, 11),),
         base=1.2, wood=1.5, drought=0.15, brown=0.4, jitter=7, vigour=0.2, bare_rows=0.12,
         leaf=Leaf(0.85, 0.9, 0.85, 0.85), echo=Echo(-9.4, -15.2, 0.3)),
    Crop(17, 848, (Growth(1.0, -28, 14, 166, 9), Growth(3.8, 92, 13, 180, 9)),
         brown=2.0, harvest=206, sowing=-66, jitter=9, leaf=Leaf(1.0, 1.0, 1.06, 0.95), echo=Echo(-13.0, -19.2, 0.38)),
    Crop(18, 707, (Growth(3.9, 176, 9, 262, 10),),
         brown=1.7, harvest=281, sowing=128, jitter=9, leaf=Leaf(1.06, 0.98, 0.92, 1.1), echo=Echo(-10.9, -16.8, 0.33)),
)  # fmt: skip
"""`parcels`: about how many parcels PASTIS has of each crop; sets the long tail of the frequencies."""

GROUND_COVER = (
    Crop(0, 0, (Growth(1.6, 85, 14, 315, 22),), base=1.1, drought=0.45, brown=0.8, jitter=12, vigour=0.25,
         echo=Echo(-11.0, -17.3, 0.3)),
    Crop(0, 0, (Growth(4.2, 108, 8, 303, 10),), base=0.5, wood=5.0, brown=1.0, jitter=0,
         leaf=Leaf(0.85, 0.92, 0.92, 0.85), echo=Echo(-8.6, -13.6, 0.6)),
    Crop(0, 0, (Growth(0.6, 130, 15, 300, 20),), base=3.6, wood=5.0, jitter=0,
         leaf=Leaf(0.62, 0.6, 0.52, 0.48), echo=Echo(-9.0, -14.2, 0.6)),
    Crop(0, 0, (), jitter=0),
    Crop(0, 0, (Growth(0.5, 100, 12, 300, 12),), base=0.5, jitter=0),
)  # fmt: skip
"""What grows on the kinds of background, in the order of `fields.Ground` from MARGIN on."""

COVERS = GROUND_COVER + CROPS
"""Every cover; a crop's row is `FIRST_CROP` + class id - 1."""

FIRST_CROP = len(GROUND_COVER)

"""The 40 tree species of PLANTED's `species` subset, in the order of AnySat, whose copy numbers them."""

from __future__ import annotations

SPECIES = (
    "Elaeis guineensis",
    "Pinus taeda",
    "Pinus rigida",
    "Pinus koraiensis",
    "Pinus densiflora",
    "Abies sachalinensis",
    "Pinus elliottii",
    "Shorea robusta",
    "Castanea crenata",
    "Pseudotsuga menziesii",
    "Eucalyptus globulus",
    "Pinus radiata",
    "Robinia pseudoacacia",
    "Pinus thunbergii",
    "Pinus echinata",
    "Thea sinensis",
    "Betula pendula",
    "Hevea brasiliensis",
    "Picea glehnii",
    "Quercus acutissima",
    "Eucalyptus nitens",
    "Cocos nucifera",
    "Anacardium occidentale",
    "Zelkova serrata",
    "Acer pictum",
    "Prunus serrulata",
    "Prunus dulcis",
    "Picea jezoensis",
    "Quercus variabilis",
    "Fraxinus rhynchophylla",
    "Ginkgo biloba",
    "Pasania edulis",
    "Dendropanax morbiferus",
    "Machilus thunbergii",
    "Cryptomeria japonica",
    "Acacia melanoxylon",
    "Malus pumila",
    "Picea mariana",
    "Cornus controversa",
    "Theobroma cacao",
)

_NUMBERS = {name.lower(): number for number, name in enumerate(SPECIES)}


def class_number(name: str) -> int:
    """The class of a species, whatever its capitals and underscores; else a ValueError."""
    try:
        return _NUMBERS[" ".join(name.replace("_", " ").lower().split())]
    except KeyError:
        raise ValueError(
            f"unknown species {name!r}; the {len(SPECIES)} of PLANTED's species subset are known, such as {SPECIES[0]}"
        ) from None

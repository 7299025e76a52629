"""Signals of the made-up copies carry their classes, so that there is something to learn."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from eokit.data.formats import get_format
from eokit.data.synthetic import write_copy


@pytest.mark.slow
def test_species_of_synthetic_planted_can_be_told_from_their_season(tmp_path):
    source = get_format("planted").open_source(write_copy("planted", tmp_path / "copy", patches=240))
    fold = np.array([entry.fold for entry in source.entries])
    seasons = np.array([_season(source, entry) for entry in source.entries])
    species = np.array([int(source.read_labels(entry)["class"]) for entry in source.entries])
    forest = RandomForestClassifier(200, random_state=0).fit(seasons[fold != 3], species[fold != 3])
    most_frequent = np.bincount(species[fold != 3]).argmax()
    right = (forest.predict(seasons[fold == 3]) == species[fold == 3]).mean()
    assert right > 1.5 * (species[fold == 3] == most_frequent).mean(), "measured: 2.8 times as often"


def _season(source, entry):
    """The mean Sentinel-2 spectrum of a patch on fifteen days of the season."""
    images = source.read(entry, "s2").astype(float)
    images[images == -32768] = np.nan
    spectra = np.nan_to_num(np.nanmean(images, axis=(2, 3)))
    days = np.linspace(entry.days["s2"].min(), entry.days["s2"].max(), 15)
    return np.concatenate([np.interp(days, entry.days["s2"], band) for band in spectra.T])

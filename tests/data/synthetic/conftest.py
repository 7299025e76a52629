import pytest

from eokit.data.synthetic import write_synthetic_pastis


@pytest.fixture(scope="session")
def season(tmp_path_factory):
    """Eight synthetic patches of 48 px over two tiles."""
    return write_synthetic_pastis(tmp_path_factory.mktemp("season") / "PASTIS-R", patches=8, size=48, dates=(18, 24))

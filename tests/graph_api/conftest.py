import pytest
from hypothesis import settings

from tests.graph_api.scripted import Graph, Time

# How long an example takes says nothing on a machine that is shared.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def graph() -> Graph:
    return Graph(Time())

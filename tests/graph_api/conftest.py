import pytest

from tests.graph_api.scripted import Graph, Time


@pytest.fixture
def graph() -> Graph:
    return Graph(Time())

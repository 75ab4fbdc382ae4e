"""What a value is computed from and what is computed from it, held against networkx."""

import networkx as nx
from graphs import graphs
from hypothesis import given

from costsim.ir.graph import LayerGraph


@given(graphs())
def test_what_comes_before_and_behind_is_what_networkx_finds(graph: LayerGraph) -> None:
    for call in graph.calls:
        assert graph.before(call.name) == nx.ancestors(graph.digraph, call.name)
        assert graph.behind(call.name) == nx.descendants(graph.digraph, call.name)
        assert call.name in graph
    assert "nobody" not in graph

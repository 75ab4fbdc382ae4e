"""The built-in networks: data here, modules in `build`, published weights in `weights`."""

from costsim.models.networks.architectures import NETWORKS, Architecture, Block, find_architecture

__all__ = ["NETWORKS", "Architecture", "Block", "find_architecture"]

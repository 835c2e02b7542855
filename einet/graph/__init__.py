"""Region graphs: which variables a density is about, and how it is taken apart.

regions   regions, partitions, the graph that they make, its checks and its JSON
plan      the order in which a network computes a graph, layer by layer (Algorithm 1)
"""

from einet.graph.regions import Partition, Region, RegionGraph

__all__ = ["Partition", "Region", "RegionGraph"]

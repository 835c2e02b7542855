"""Structures: graphs that nobody has to write by hand.

ready_made   random binary trees, Poon-Domingos, quadrants: from the number of variables, or the shape, alone
learned      Chow-Liu trees: from rows
"""

from einet.structures.learned import chow_liu, pairwise_information
from einet.structures.ready_made import poon_domingos, quad_graph, random_binary_trees

__all__ = ["chow_liu", "pairwise_information", "poon_domingos", "quad_graph", "random_binary_trees"]

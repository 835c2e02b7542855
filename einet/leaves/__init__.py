"""The leaf layer: what stands below all sums.

layer          all leaf regions of a network: a part for each family
evidence       what is known of rows: observed entries, and boxes
part           what a part answers, whatever its family
factorised     products over variables of an exponential family; products has their matrix products
joint_normal   normal densities of all variables of a region together; gaussian has their linear algebra, normal_boxes
               their probabilities of boxes
"""

from einet.leaves.factorised import MAX_ONE_HOT, FamilyLeaves
from einet.leaves.joint_normal import JointNormalLeaves
from einet.leaves.layer import LeafLayer
from einet.leaves.part import LeafPart

__all__ = ["MAX_ONE_HOT", "FamilyLeaves", "JointNormalLeaves", "LeafLayer", "LeafPart"]

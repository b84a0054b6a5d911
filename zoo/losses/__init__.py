"""Loss functions. Contrastive losses are pure functions of unit vectors, each in three forms with equal gradients.

Plain: all logits at once, for small batches. Tiled: one block of logits at a time, for large batches. Local: each process computes its own
rows against the columns of all processes. ``info_nce`` and ``sigmoid_loss`` choose between plain and tiled. ``directed_info_nce`` has the
local form only; it has a scale for each direction and takes any number of rows.

May import: no other room. To add a loss, write a pure function in a file of this folder; a head calls it.
"""

from zoo.losses.directed import directed_info_nce
from zoo.losses.pairs import pair_targets
from zoo.losses.sigmoid import local_sigmoid_loss, plain_sigmoid_loss, sigmoid_loss, tiled_sigmoid_loss
from zoo.losses.softmax import info_nce, local_info_nce, plain_info_nce, tiled_info_nce

"""Checks of parts, for their authors: each raises one ``ContractError`` that names part, rule, finding, expectation and remedy.

``zoo.testing.check_encoder(MyEncoder(dim=96), pixels)`` in a test of yours is enough to know that the encoder fits every head. zoo's
own tests call these checks for every small row. May import: ``types``, ``registry``, ``assembly``, ``runs`` and the rooms below them.
Add a rule to the check of its kind, with a test of its message.
"""

from zoo.errors import ContractError
from zoo.testing.connectors import check_connector
from zoo.testing.encoders import check_encoder
from zoo.testing.evaluations import check_evaluation
from zoo.testing.formats import check_format
from zoo.testing.heads import check_head
from zoo.testing.language_models import check_language
from zoo.testing.objectives import check_objective
from zoo.testing.processors import check_processor
from zoo.testing.sources import check_source

__all__ = [
    "ContractError",
    "check_connector",
    "check_encoder",
    "check_evaluation",
    "check_format",
    "check_head",
    "check_language",
    "check_objective",
    "check_processor",
    "check_source",
]

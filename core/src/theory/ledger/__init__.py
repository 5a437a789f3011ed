"""The ledger of a home, and what passes in and out of it.

``ledger`` is the front; ``account`` moves money and writes events within one transaction; ``chain`` hashes
and checks events; ``database`` is the SQLite file; ``owner`` and ``heartbeat`` say who holds a reservation
and that it still lives.
"""

from theory.ledger.chain import Event, PlanState
from theory.ledger.execution import Closing, Record, fits
from theory.ledger.ledger import Ledger

__all__ = ["Closing", "Event", "Ledger", "PlanState", "Record", "fits"]

"""By which mapping an index that a topic feeds was built: what came through the topic is mapped as
it comes, and cannot be read again. A direct flow reads again, and keeps the same in its position.
"""

from __future__ import annotations

from connectors.ledger import NEVER
from connectors.store import Conditional, Point, Store
from models import points
from models.ids import single_id
from models.points import OWN
from models.records import Rules

_ID = single_id("rules")


class MappedBy:
    """The point that keeps it. All methods raise `Unavailable` while the store does not answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def rules(self) -> str | None:
        """The fingerprint of the mapping; None where no topic feeds the index."""
        found = self._store.retrieve([_ID])
        return Rules.model_validate(found[0].payload[OWN]["record"]).fingerprint if found else None

    def put(self, fingerprint: str, *, unless_known: bool = False) -> None:
        """All that is indexed is in line with this mapping; `unless_known`: if none is kept."""
        made = Point(_ID, points.single_payload("rules", Rules(fingerprint=fingerprint)))
        if unless_known:
            self._store.upsert_conditionally([Conditional([made], NEVER)])
        else:
            self._store.upsert([made])

    def forget(self) -> None:
        """From now on a direct flow feeds the index."""
        self._store.delete([_ID])

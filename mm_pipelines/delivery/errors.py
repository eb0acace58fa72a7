"""What can stop a delivery, apart from the Graph API itself (`graph_api.errors`).

    DeliveryError
    ├── PayloadMissing          there is no hashed payload of that day
    ├── PayloadUnreadable       its file is gone from the storage, or lacks what it must have
    ├── AudienceElsewhere       mm.yaml names another Page or ad account than was recorded
    ├── TooManyRemovals         a mirrored list would remove more people than the guard allows
    └── RowsNotReceived         Meta answered, and says that it did not take the batch

Every message says what to do next, and none holds a person's data.
"""


class DeliveryError(Exception):
    """A delivery cannot go on."""


class PayloadMissing(DeliveryError):
    """There is no hashed payload to deliver."""


class PayloadUnreadable(DeliveryError):
    """A file that the delivery rests on cannot be read."""


class AudienceElsewhere(DeliveryError):
    """The Custom Audience recorded for an audience belongs to another Page or ad account."""


class TooManyRemovals(DeliveryError):
    """A mirrored list would remove more of the members than ``removal_share`` allows."""


class RowsNotReceived(DeliveryError):
    """Meta took fewer rows than were sent; running again sends them in a new session."""

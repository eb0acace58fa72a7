"""What can stop a delivery, apart from the Graph API itself (`graph_api.errors`).

    DeliveryError
    ├── PayloadMissingError          there is no hashed payload of that day
    ├── PayloadUnreadableError       its file is gone from the storage, or lacks what it must have
    ├── AudienceMismatchError       mm.yaml names another Page or ad account than was recorded
    ├── TooManyRemovalsError         a mirrored list would remove more people than the guard allows
    └── RowsNotReceivedError         Meta answered, and says that it did not take the batch

Every message says what to do next, and none holds a person's data.
"""


class DeliveryError(Exception):
    """A delivery cannot go on."""


class PayloadMissingError(DeliveryError):
    """There is no hashed payload to deliver."""


class PayloadUnreadableError(DeliveryError):
    """A file that the delivery rests on cannot be read."""


class AudienceMismatchError(DeliveryError):
    """The Custom Audience recorded for an audience belongs to another Page or ad account."""


class TooManyRemovalsError(DeliveryError):
    """A mirrored list would remove more of the members than ``removal_share`` allows."""


class RowsNotReceivedError(DeliveryError):
    """Meta took fewer rows than were sent; running again sends them in a new session."""

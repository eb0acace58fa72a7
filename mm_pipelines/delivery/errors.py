"""Errors of a delivery, apart from those of the Graph API itself (`graph_api.errors`).

    DeliveryError
    ├── PayloadMissingError          there is no hashed payload of that day
    ├── PayloadIncompleteError       rows of the list are unaccounted for in the payload
    ├── PayloadUnreadableError       its file is missing from the storage, or lacks a column
    │   └── DeltaFileMissingError    the file of an open delta is missing from the storage
    ├── AudienceMismatchError        mm.yaml names another Page or ad account than was recorded
    ├── AudienceKeyTakenError        another key of mm.yaml has the same Custom Audience
    ├── AudienceTooSmallError        Meta refuses a removal that would leave too few people
    ├── AudienceDeletedError         the Custom Audience does not exist at Meta
    ├── TooManyRemovalsError         a mirrored list would remove more people than allowed
    ├── UploadsPausedError           a person paused the uploads of the audience
    ├── RowsNotReceivedError         Meta answered that it did not receive the whole batch
    └── UploadRefusedError           Meta refuses every request, or too many rows

Every message names the next step and contains no personal data.
"""


class DeliveryError(Exception):
    """The delivery cannot continue."""


class PayloadMissingError(DeliveryError):
    """There is no hashed payload to deliver."""


class PayloadIncompleteError(DeliveryError):
    """Rows of the list are unaccounted for in the payload: its check ``no_row_lost`` failed."""


class PayloadUnreadableError(DeliveryError):
    """A file that the delivery needs cannot be read."""


class DeltaFileMissingError(PayloadUnreadableError):
    """The file of an open delta is missing from the storage."""


class AudienceMismatchError(DeliveryError):
    """The Custom Audience recorded for an audience belongs to another Page or ad account."""


class AudienceKeyTakenError(DeliveryError):
    """The Custom Audience is recorded for another key of mm.yaml already."""


class AudienceDeletedError(DeliveryError):
    """The Custom Audience does not exist at Meta, or the token cannot see it."""


class AudienceTooSmallError(DeliveryError):
    """Meta refuses a removal because too few people would be left; it stays open."""


class TooManyRemovalsError(DeliveryError):
    """A mirrored list would remove more of the members than ``removal_share`` allows."""


class UploadsPausedError(DeliveryError):
    """A person paused the uploads of the audience; they continue after `mm resume`."""


class RowsNotReceivedError(DeliveryError):
    """Meta received fewer rows than were sent; running again sends them in a new session."""


class UploadRefusedError(DeliveryError):
    """Meta refuses the request whatever the rows, or more rows than can be isolated in a run.

    The delta is closed: what was acknowledged stays, the other people stay due.
    """

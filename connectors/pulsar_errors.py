"""The Pulsar client's errors as ours, by class, never by text.

The client has each error twice, with one name: as an exception class, and as a `Result` that its
callbacks get.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pulsar

from syncline.errors import Misconfigured, SynclineError, Unavailable

SERVICE = "pulsar"

_PASSING = frozenset(
    {
        *("Timeout", "ConnectError", "ReadError", "NotConnected", "ChecksumError"),  # the network
        *("LookupError", "TooManyLookupRequestException", "ServiceUnitNotReady"),  # moving topics
        *("BrokerMetadataError", "BrokerPersistenceError", "UnknownError"),  # trouble of its own
        *("ProducerBusy", "ProducerFenced", "ConsumerBusy"),  # one that is still there, or another
        *("ProducerBlockedQuotaExceededError", "ProducerBlockedQuotaExceededException"),
        *("ProducerQueueIsFull", "MemoryBufferIsFull", "Interrupted"),
        *("AlreadyClosed", "ProducerNotInitialized", "ConsumerNotInitialized", "ConsumerNotFound"),
        "SubscriptionNotFound",
    }
)
"""The client itself tries most of these again. A full backlog quota is back-pressure."""

_DENIED = frozenset({"AuthenticationError", "AuthorizationError", "ErrorGettingAuthenticationData"})

_REMEDIES = {
    "TopicNotFound": "create the topic, or let the broker create topics "
    "(allowAutoTopicCreation), or correct pulsar.topic",
    "TopicTerminated": "set pulsar.topic to another topic: this one takes no more messages",
    "InvalidTopicName": "write pulsar.topic as persistent://tenant/namespace/topic",
    "InvalidUrl": "write pulsar.url as pulsar://host:port or pulsar+ssl://host:port",
    "InvalidConfiguration": "check the settings in [pulsar]",
    "IncompatibleSchema": "use a topic without a schema of its own, or delete its schema",
    "MessageTooBig": "set pulsar.max_message_bytes below the broker's maxMessageSize",
    "UnsupportedVersionError": "use Apache Pulsar 2.10 or later",
    "OperationNotSupported": "use Apache Pulsar 2.10 or later",
    "NotAllowedError": "check the policies of the namespace in pulsar.topic",
    "CryptoError": "check the TLS files in [pulsar]",
    "ConsumerAssignError": "give the index a subscription of its own (pulsar.subscription)",
}


def translate(error: pulsar.PulsarException | pulsar.Result) -> SynclineError:
    """The error of ours that `error` stands for.

    An error that nobody has thought of becomes a bare `SynclineError`, which ends the flow.
    """
    name = error.name if isinstance(error, pulsar.Result) else type(error).__name__
    if name in _PASSING:
        return Unavailable(SERVICE, name)
    if name in _DENIED:
        return Misconfigured(
            f"Pulsar refuses the credentials ({name})",
            "check pulsar.token or the TLS certificate, and grant produce and consume on the "
            "namespace of pulsar.topic",
            code="access_refused",
        )
    if name in _REMEDIES:
        return Misconfigured(
            f"Pulsar cannot be used like this: {name}", _REMEDIES[name], code="topic_unfit"
        )
    return SynclineError(f"unexpected Pulsar error: {name}: {error}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise the errors of the block as ours, cause chained."""
    try:
        yield
    except pulsar.PulsarException as error:
        raise translate(error) from error

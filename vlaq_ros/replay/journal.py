"""What a pilot has said of itself in a recording: with what it was configured, and what it noted of its flight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vlaq_ros.bags.rosbag import TEXT, open_bag
from vlaq_ros.bags.topics import Topics
from vlaq_ros.journal import Entry, parse
from vlaq_ros.session import Session


def session(bag: Path, topics: Topics) -> Session | None:
    """Read what the pilot was configured with first.

    Returns:
        None where the recording does not say it.

    Raises:
        JournalError: it says it in the words of another version of the package.
        UnreadableBagError, EmptyBagError: it is no recording.
    """
    text = next(_texts(bag, topics.session), None)
    return None if text is None else Session.parse(text)


def entries(bag: Path, topics: Topics) -> Iterator[Entry]:
    """Read what the pilot has noted.

    Raises:
        JournalError: it is in the words of another version of the package.
        UnreadableBagError, EmptyBagError: it is no recording.
    """
    for text in _texts(bag, topics.journal):
        yield from parse(text)[1]


def _texts(bag: Path, topic: str) -> Iterator[str]:
    with open_bag(bag) as opened:
        if not opened.lacking({topic: TEXT}):
            for message in opened.messages({topic: TEXT}):
                yield opened.deserialize(message).data

"""Tests of which packets of a picture the presented frames need."""

import hashlib

from shared.media.needed_packets import NeededPackets

KEY, HIDDEN = "K", "H"


def digest_of(text: str) -> str:
    """Return the digest of packets such as "KH0 S2 S1": flags, and the time in frames."""
    needed = NeededPackets()
    for word in text.split():
        needed.add(
            word.encode(),
            time=int(word.lstrip("KSH")),
            is_key_frame=KEY in word,
            is_hidden=HIDDEN in word,
        )
    return needed.hexdigest()


def sha256(*words: str) -> str:
    """Return the digest of packets whose content is these words."""
    return hashlib.sha256("".join(words).encode()).hexdigest()


def test_every_packet_of_a_film_without_edits_is_needed() -> None:
    """In decoding order, whatever the times."""
    assert digest_of("KS0 S2 S1 KS3") == sha256("KS0", "S2", "S1", "KS3")


def test_packets_before_the_last_hidden_key_frame_are_not_needed() -> None:
    """A copy may leave them out."""
    assert digest_of("KH0 H1 KH2 H3 S4") == sha256("KH2", "H3", "S4")
    assert digest_of("KH0 H1 KS2 S3") == digest_of("KS2 S3") == sha256("KS2", "S3")


def test_packets_after_the_last_presented_one_are_not_needed() -> None:
    """But a hidden one before it is, because the presented one may refer to it."""
    assert digest_of("KS0 H3 S1 H2 H4") == sha256("KS0", "H3", "S1")
    assert digest_of("KH0 KS2 S3 H4") == sha256("KS2", "S3")


def test_frames_shown_before_their_key_frame_need_the_previous_group() -> None:
    """An open GOP: the frame at 3 follows the key frame at 4 and may refer to both groups."""
    assert digest_of("KH0 H1 KS4 S3") == sha256("KH0", "H1", "KS4", "S3")

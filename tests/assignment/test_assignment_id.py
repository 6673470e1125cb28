"""The assignment id: its format, its signature, and that batches agree with single ids."""

import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode

import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES128
from cryptography.hazmat.primitives.cmac import CMAC
from hypothesis import given
from hypothesis import strategies as st

from app.assignment import assignment_id
from app.assignment.assignment_id import (
    AssignmentId,
    Flag,
    InvalidAssignmentId,
    Signer,
    Verdict,
    unrecorded,
    uuid7,
)

OLD, NEW = (7, bytes(range(16))), (8, bytes(range(16, 32)))
SIGNER = Signer([NEW, OLD])

bodies = st.builds(
    assignment_id.body,
    key_id=st.sampled_from([7, 8, 9]),
    flags=st.sampled_from([0, 1]),
    variant=st.integers(0, 49),
    experiment_id=st.integers(1, 2**31 - 1),
    epoch=st.integers(1, 2**31 - 1),
    policy_version=st.integers(0, 2**31 - 1),
    id=st.builds(uuid7, st.integers(0, 2**48 - 1), st.integers(0, 2**74 - 1)),
    propensity=st.floats(0, 1),
    unit_hash=st.integers(-(2**63), 2**63 - 1),
)
tokens = bodies.map(SIGNER.sign)


def reference_tag(secret: bytes, message: bytes) -> bytes:
    mac = CMAC(AES128(secret))
    mac.update(message)
    return mac.finalize()


def single_verdict(signer: Signer, token: str) -> Verdict:
    try:
        signer.verify(token)
    except InvalidAssignmentId as error:
        return error.verdict
    return Verdict.VALID


def test_the_bytes_of_a_token_follow_the_format():
    body = assignment_id.body(
        key_id=8,
        flags=Flag.UNRECORDED,
        variant=3,
        experiment_id=0x01020304,
        epoch=0x05060708,
        policy_version=0x090A0B0C,
        id=uuid7(0x0123456789AB, 2**74 - 1),
        propensity=0.25,
        unit_hash=-2,
    )
    raw = urlsafe_b64decode(SIGNER.sign(body))
    assert raw[:16].hex() == "010801030102030405060708090a0b0c"
    assert raw[16:32].hex() == "0123456789ab7fffbfffffffffffffff"
    assert struct.unpack(">dq", raw[32:48]) == (0.25, -2)
    assert raw[48:] == reference_tag(NEW[1], body)[:12]


def test_uuid7_follows_rfc_9562():
    # Appendix A.6: 2022-02-22T19:22:22Z, rand_a 0xCC3, rand_b 0x18C4DC0C0C07398F.
    made = uuid7(0x017F22E279B0, 0xCC3 << 62 | 0x18C4DC0C0C07398F)
    assert made.hex() == "017f22e279b07cc398c4dc0c0c07398f"


def test_subkey_and_chain_are_those_of_rfc_4493():
    """Section 4, test vectors: K1 of the key, and by the reference implementation the tag of three blocks."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    mac = assignment_id._Mac(key)
    assert mac._k1 == 0xFBEED618357133667C85E08F7236A8DE
    message = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52ef"
    )
    assert mac.tag(message) == reference_tag(key, message)


@given(st.binary(min_size=48, max_size=48), st.binary(min_size=16, max_size=16))
def test_the_signature_is_aes_cmac(body: bytes, secret: bytes):
    assert assignment_id._Mac(secret).tag(body) == reference_tag(secret, body)


@given(bodies.filter(lambda body: body[1] != 9))
def test_a_verified_token_says_what_was_signed(body: bytes):
    token = SIGNER.sign(body)
    assert len(token) == assignment_id.TOKEN_LENGTH
    assert SIGNER.verify(token) == AssignmentId.from_body(body)
    bodies, verdicts = SIGNER.verify_batch([token])
    assert verdicts.tolist() == [Verdict.VALID]
    said = AssignmentId.from_body(bodies[0].tobytes())
    assert said == AssignmentId.from_body(body)
    assert bodies["propensity"][0] == said.propensity
    assert bodies["unit_hash"][0] == said.unit_hash
    assert int(bodies["policy_version"][0]) == said.policy_version


@given(tokens, st.integers(0, 79), st.sampled_from(assignment_id._URL_SAFE.decode()))
def test_a_token_changed_in_one_character_is_refused(token: str, position: int, character: str):
    changed = token[:position] + character + token[position + 1 :]
    assert (single_verdict(SIGNER, changed) is Verdict.VALID) == (changed == token)


hostile = st.one_of(
    tokens,
    st.text(max_size=90),
    st.text(min_size=80, max_size=80),
    st.text(alphabet=assignment_id._URL_SAFE.decode() + "+/=*\n\0é😀", min_size=80, max_size=80),
    st.builds(
        lambda token, at, what: token[:at] + what + token[at + 1 :],
        tokens,
        st.integers(0, 79),
        st.characters(),
    ),
    st.builds(lambda token: token[:-2] + "==", tokens),
    st.builds(lambda raw: urlsafe_b64encode(raw).decode(), st.binary(min_size=60, max_size=60)),
    st.builds(lambda raw: urlsafe_b64encode(b"\1\7" + raw).decode(), st.binary(min_size=58, max_size=58)),
)


@given(st.lists(hostile, max_size=12))
def test_a_batch_gives_each_token_the_verdict_it_gets_alone(batch: list[str]):
    bodies, verdicts = SIGNER.verify_batch(batch)
    assert verdicts.tolist() == [single_verdict(SIGNER, token) for token in batch]
    for body, verdict, token in zip(bodies, verdicts, batch, strict=True):
        if verdict == Verdict.VALID:
            assert AssignmentId.from_body(body.tobytes()) == SIGNER.verify(token)


def test_an_older_key_verifies_until_it_is_retired():
    body = assignment_id.body(
        key_id=7,
        flags=0,
        variant=0,
        experiment_id=1,
        epoch=1,
        policy_version=1,
        id=uuid7(1, 1),
        propensity=1.0,
        unit_hash=0,
    )
    token = Signer([OLD]).sign(body)
    assert single_verdict(SIGNER, token) is Verdict.VALID
    assert single_verdict(Signer([NEW]), token) is Verdict.UNKNOWN_KEY
    assert Signer([NEW]).verify(Signer([NEW]).sign(body)).key_id == 8  # signed anew by a key still in force


def test_a_token_signed_by_another_server_is_forged():
    impostor = Signer([(8, b"not the secret!!")])
    body = assignment_id.body(
        key_id=8,
        flags=0,
        variant=0,
        experiment_id=1,
        epoch=1,
        policy_version=1,
        id=uuid7(1, 1),
        propensity=1.0,
        unit_hash=0,
    )
    with pytest.raises(InvalidAssignmentId, match="signature") as refused:
        SIGNER.verify(impostor.sign(body))
    assert refused.value.verdict is Verdict.FORGED


@given(bodies)
def test_marking_a_body_unrecorded_changes_the_flag_only(body: bytes):
    marked = unrecorded(body)
    assert marked[2] == body[2] | 1
    assert marked[:2] + marked[3:] == body[:2] + body[3:]

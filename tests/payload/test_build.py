"""From a list to its payload file."""

import hashlib
import hmac
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mm_pipelines.lists import FileSource, ListChangedError, ListRowError, inspect_list
from mm_pipelines.payload import HashedPayload, build_hashed_payload, deduplication
from mm_pipelines.storage import Storage
from mm_pipelines.suppression.digests import (
    key_fingerprint,
    suppression_digest,
    suppression_digests,
)
from mm_pipelines.suppression.keys import SuppressionKeys
from mm_pipelines.suppression.suppression_list import SuppressionList

EMPTY = hashlib.sha256(b"").hexdigest()


def sha(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest() if value else ""


def build(folder: Path, content: str, **options: object) -> HashedPayload:
    path = folder / "list.csv"
    path.write_text(content, encoding="utf-8", newline="")
    storage = Storage(str(folder / "storage"))
    return build_hashed_payload(
        FileSource(str(path)),
        storage,
        folder="hashed",
        **options,  # type: ignore[arg-type]
    )


def people_of(built: HashedPayload) -> pl.DataFrame:
    return pl.read_parquet(built.url)


def rejected_of(built: HashedPayload) -> list[tuple[int, list[str]]]:
    return [row for frame in built.rejected_rows.frames() for row in frame.iter_rows()]


def assert_no_row_is_lost(built: HashedPayload) -> None:
    assert built.accepted + built.merged + built.rejected + built.suppressed == built.read
    assert len(built.rejected_rows) == built.rejected
    assert people_of(built).height == built.accepted


def test_a_payload_has_a_row_per_person_in_the_lists_order(tmp_path: Path) -> None:
    built = build(
        tmp_path,
        "First Name,Phone,Email,Country\n"
        " Mary ,(650) 555-1212,,US\n"
        ",,,\n"
        'O\'Brien,,"B@Example.COM ",\n',
    )
    assert built.keys == ("EMAIL", "PHONE", "FN", "COUNTRY")
    assert people_of(built).columns == ["EMAIL", "PHONE", "FN", "COUNTRY", "row_number"]
    assert people_of(built).rows() == [
        ("", sha("16505551212"), sha("mary"), sha("us"), 1),
        (sha("b@example.com"), "", sha("obrien"), "", 3),
    ]
    assert_no_row_is_lost(built)


def test_a_row_without_an_identifier_is_rejected_with_its_reasons(tmp_path: Path) -> None:
    built = build(
        tmp_path,
        "email,phone,country\n"
        ",,\n"
        "null,#N/A,US\n"
        "mary,,\n"
        ",020 7946 0958,\n"
        ",12,GB\n"
        "mary,+44 1,\n"
        "mary@,079,\n"
        "a@b.co,12,\n",
    )
    assert rejected_of(built) == [
        (1, ["no_identifier"]),
        (2, ["no_identifier"]),
        (3, ["invalid_email"]),
        (4, ["phone_without_country"]),
        (5, ["invalid_phone"]),
        (6, ["invalid_email", "invalid_phone"]),
        (7, ["invalid_email", "phone_without_country"]),
    ]
    assert built.rejection_reasons == {
        "invalid_email": 3,
        "no_identifier": 2,
        "phone_without_country": 2,
        "invalid_phone": 2,
    }
    assert built.blanked == {"EMAIL": 0, "PHONE": 1, "COUNTRY": 0}
    assert built.usable == {"EMAIL": 1, "PHONE": 0, "COUNTRY": 2}
    assert_no_row_is_lost(built)


def test_a_row_without_consent_is_rejected(tmp_path: Path) -> None:
    built = build(
        tmp_path,
        "email,phone,Accepts Email Marketing\na@b.co,,yes\nb@b.co,12,no\nmary,,\n,,no\nmary,,yes\n",
        default_country="US",
    )
    assert people_of(built)["row_number"].to_list() == [1]
    assert rejected_of(built) == [
        (2, ["no_consent"]),
        (3, ["invalid_email", "no_consent"]),
        (4, ["no_identifier", "no_consent"]),
        (5, ["invalid_email"]),
    ]
    assert built.rejection_reasons == {"no_consent": 3, "invalid_email": 2, "no_identifier": 1}
    assert_no_row_is_lost(built)


def test_an_unusable_optional_field_is_blanked_and_counted(tmp_path: Path) -> None:
    built = build(tmp_path, "email,gen,zip,country\na@b.co,x,9,Atlantis\nc@d.co,f,,DE\n")
    assert built.blanked == {"EMAIL": 0, "GEN": 1, "ZIP": 1, "COUNTRY": 1}
    assert people_of(built).rows() == [
        (sha("a@b.co"), "", "", "", 1),
        (sha("c@d.co"), sha("f"), "", sha("de"), 2),
    ]


def test_a_person_who_is_there_twice_is_merged_into_the_fullest_row(tmp_path: Path) -> None:
    built = build(
        tmp_path,
        "email,phone,fn,ln,ct,zip\n"
        "a@b.co,,Ann,,,\n"
        "x@y.zz,,,,,\n"
        "A@B.co,,,Lee,Rome,\n"
        "a@b.co ,,Anna,Lee,,\n"
        "a@b.co,+1 650 555 1212,,,,\n"
        "a@b.co,,,,,75018\n",
    )
    assert people_of(built).rows() == [
        (sha("x@y.zz"), "", "", "", "", "", 2),
        # Row 3 is the first of the fullest; its blanks come from the others.
        (sha("a@b.co"), "", sha("lee"), sha("anna"), sha("rome"), sha("75018"), 3),
        (sha("a@b.co"), sha("16505551212"), "", "", "", "", 5),
    ]
    assert (built.read, built.accepted, built.merged) == (6, 3, 3)
    assert_no_row_is_lost(built)


def test_the_same_list_is_the_same_file(tmp_path: Path) -> None:
    content = "email,fn\n" + "".join(f"{n % 900}@b.co,N{n}\n" for n in range(3000))
    first, second = build(tmp_path, content), build(tmp_path, content)
    assert (first, first.sha256) == (second, second.sha256)
    assert first.path == f"hashed/{first.sha256}.parquet"
    assert hashlib.sha256(Path(first.url).read_bytes()).hexdigest() == first.sha256
    assert len(list((tmp_path / "storage" / "hashed").iterdir())) == 1


def test_a_list_that_changed_since_is_refused_and_nothing_is_published(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("email\na@b.co\n")
    seen = inspect_list(FileSource(str(path))).fingerprint
    with pytest.raises(ListChangedError, match="The list changed after it was validated"):
        build(tmp_path, "email\na@b.co\nc@d.co\n", expected_fingerprint=seen)
    assert not list((tmp_path / "storage").rglob("*.parquet"))
    assert build(tmp_path, "email\na@b.co\n", expected_fingerprint=seen).accepted == 1


def test_a_list_with_a_fault_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ListRowError, match="row 2: 1 field where the header has 2"):
        build(tmp_path, "email,fn\na@b.co,x\nc@d.co\n")
    assert not list((tmp_path / "storage").rglob("*.parquet"))


def test_a_list_without_people_is_an_empty_payload(tmp_path: Path) -> None:
    for content in ("email,phone\n", "email,phone\n,\n,\n"):
        built = build(tmp_path, content)
        assert built.accepted == 0
        assert people_of(built).schema == {
            "EMAIL": pl.String,
            "PHONE": pl.String,
            "row_number": pl.Int64,
        }
        assert_no_row_is_lost(built)


def test_one_date_of_birth_becomes_three_keys(tmp_path: Path) -> None:
    built = build(tmp_path, "email,Birthday\na@b.co,1997-02-05\n")
    assert people_of(built).rows() == [
        (sha("a@b.co"), sha("1997"), sha("02"), sha("05"), 1),
    ]


def test_raw_values_never_reach_the_scratch_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    scratch = tmp_path / "scratch"
    monkeypatch.setenv("MM_HOME", str(scratch))
    monkeypatch.setattr(deduplication, "BYTES_IN_MEMORY", 0)

    class Watching(Storage):
        def publish(self, folder, suffix, write):  # type: ignore[no-untyped-def]
            written.extend(path.read_bytes() for path in scratch.rglob("*") if path.is_file())
            return super().publish(folder, suffix, write)

    path = tmp_path / "list.csv"
    path.write_text("email,phone,fn\nmary.findme@example.com,+16505551212,Findme\n" * 2)
    build_hashed_payload(
        FileSource(str(path)), Watching(str(tmp_path / "storage")), folder="hashed"
    )
    assert written
    for content in written:
        assert b"findme" not in content.lower()
        assert b"5551212" not in content
    assert not [left for left in scratch.rglob("*") if left.is_file()]


KEY = bytes(range(7, 39))


def suppressing(digests: list[str], key: bytes = KEY) -> SuppressionList:
    return SuppressionList(SuppressionKeys(key), {key_fingerprint(key): digests})


@pytest.mark.parametrize("key", [b"", b"k", b"k" * 64, b"k" * 65, KEY, bytes(range(200))])
def test_a_column_of_suppression_digests_is_hmac(key: bytes) -> None:
    hashes = [sha(f"{number}@example.com") for number in range(50)]
    columnar = pl.DataFrame({"hash": hashes}).select(suppression_digests(pl.col("hash"), key))
    expected = [hmac.new(key, value.encode(), hashlib.sha256).hexdigest() for value in hashes]
    assert columnar.to_series().to_list() == expected
    assert [suppression_digest(value, key) for value in hashes] == expected


def test_a_suppressed_person_is_left_out_by_either_identifier(tmp_path: Path) -> None:
    digests = [suppression_digest(sha(one), KEY) for one in ("a@b.co", "16505551212")]
    built = build(
        tmp_path,
        "email,phone\n"
        "A@b.co,\n"
        "c@d.co,(650) 555-1212\n"
        "c@d.co,\n"
        f"{sha('a@b.co').upper()},+33 6 12 34 56 78\n"
        ",\n",
        default_country="US",
        suppression=suppressing(digests),
    )
    assert people_of(built)["row_number"].to_list() == [3]
    assert (built.suppressed, built.rejected, built.accepted) == (3, 1, 1)
    assert_no_row_is_lost(built)


def test_a_person_stays_suppressed_under_every_reading_of_the_phone(tmp_path: Path) -> None:
    for form in ("4915112345678", "494915112345678"):
        built = build(
            tmp_path,
            "phone\n4915112345678\n+49 172 1234567\n",
            default_country="DE",
            suppression=suppressing([suppression_digest(sha(form), KEY)]),
        )
        assert people_of(built)["row_number"].to_list() == [2]
        assert built.suppressed == 1


def test_a_phone_in_scientific_notation_is_rejected_for_that(tmp_path: Path) -> None:
    built = build(tmp_path, "phone\n4.91511E+12\n4915112345678.0\n", default_country="DE")
    assert rejected_of(built) == [(1, ["phone_in_scientific_notation"])]
    assert people_of(built)["PHONE"].to_list() == [sha("4915112345678")]


def test_a_country_that_is_not_understood_gives_no_region(tmp_path: Path) -> None:
    rows = "0612345678,Atlantis\n+33612345678,Nowhere\n0612345678,Frankreich\n(650) 555-1212,\n"
    built = build(tmp_path, "phone,country\n" + rows, default_country="US")
    assert rejected_of(built) == [(1, ["phone_without_country"])]
    assert people_of(built)["PHONE"].to_list() == [sha("33612345678"), sha("16505551212")]
    assert built.unknown_countries == 2


def test_another_key_suppresses_no_one_and_shows_no_secret(tmp_path: Path) -> None:
    suppression = suppressing([suppression_digest(sha("a@b.co"), KEY)], b"other")
    assert build(tmp_path, "email\na@b.co\n", suppression=suppression).suppressed == 0
    assert "other" not in repr(suppression)
    assert not SuppressionList(SuppressionKeys(KEY), {})


CELLS = st.sampled_from(["", "a@b.co", "A@B.CO ", "c@d.co", "nope", "-", "é@ü.de"])
PHONES = st.sampled_from(["", "+1 650 555 1212", "(650) 555-1212", "12", "0151 12345678", "n/a"])
NAMES = st.sampled_from(["", "Ann", "ann", "Zoë", "!"])


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, PHONES, NAMES, NAMES), max_size=30),
    country=st.sampled_from([None, "US", "DE"]),
    suppressed=st.booleans(),
)
def test_no_row_is_lost_and_no_person_is_there_twice(
    rows: list[tuple[str, ...]], country: str | None, suppressed: bool, tmp_path: Path
) -> None:
    content = "email,phone,fn,ln\n" + "".join(",".join(row) + "\n" for row in rows)
    digests = [suppression_digest(sha("c@d.co"), KEY)] if suppressed else []
    built = build(tmp_path, content, default_country=country, suppression=suppressing(digests))
    people = people_of(built)

    assert built.read == len(rows)
    assert_no_row_is_lost(built)
    assert people.select("EMAIL", "PHONE").is_unique().all()
    assert people["row_number"].is_sorted()
    assert EMPTY not in {value for column in people.drop("row_number") for value in column}


def test_people_spread_over_many_chunks_are_found_again(tmp_path: Path) -> None:
    rows = 300_000
    lines = [
        f"user{n % 250_000}@example.com,{'Ann' if n >= 250_000 else ''},{'x' * 60}\n"
        for n in range(rows)
    ]
    built = build(tmp_path, "email,fn,note\n" + "".join(lines))
    people = people_of(built)

    assert (built.accepted, built.merged) == (250_000, 50_000)
    assert_no_row_is_lost(built)
    assert people["row_number"].is_sorted()
    assert (people["FN"] == sha("ann")).sum() == 50_000
    assert people["row_number"].max() == rows


def test_a_phone_that_earlier_rules_hashed_otherwise_keeps_that_hash_beside_it(
    tmp_path: Path,
) -> None:
    built = build(
        tmp_path,
        "email,phone\n,4915112345678\na@b.co,+4915112345678\na@b.co,4915112345678\n,0172 1234567\n",
        default_country="DE",
    )
    new, former = sha("4915112345678"), sha("494915112345678")
    assert people_of(built).drop("row_number").rows() == [
        ("", new, former),
        (sha("a@b.co"), new, former),
        ("", sha("491721234567"), ""),
    ]
    assert people_of(built).columns[-2:] == ["former_phone", "row_number"]
    assert (built.keys, built.former_phones) == (("EMAIL", "PHONE"), 2)
    assert_no_row_is_lost(built)

"""Settings: what each source may say, in which order it counts, and how a mistake is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ConfigError
from service.settings import Settings, format_duration, format_size, parse_duration, parse_size
from service.storage.address import BucketAddress

MILLISECOND = timedelta(milliseconds=1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1048576", 2**20),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("2GiB", 2 * 2**30),
        ("1.5KiB", 1536),
        (" 1TB ", 10**12),
        ("7b", 7),
        (1024, 1024),
    ],
)
def test_sizes_have_units(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "-1", "1e6", "2 GiBs", "GiB", "1,5MB"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="500MB, 2GiB or 1048576"):
        parse_size(text)


@given(st.integers(0, 2**50))
def test_a_size_is_read_as_it_is_written(size):
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("90s", 90), ("5m", 300), ("1.5h", 5400), ("30d", 30 * 86400), ("250ms", 0.25), ("0", 0), (3, 3)],
)
def test_durations_have_units(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "-5s", "5 weeks", "1:30"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="30s, 5m, 12h or 30d"):
        parse_duration(text)


@pytest.mark.parametrize("value", ["36501d", "99999999999999d", "9" * 400 + "ms", float("inf"), float("nan"), 1e300])
def test_a_duration_beyond_reason_is_refused(value):
    with pytest.raises(ValueError, match="up to 36500d"):
        parse_duration(value)


@given(st.timedeltas(timedelta(0), timedelta(days=36_500)))
def test_a_duration_is_read_as_it_is_written(duration):
    assert abs(parse_duration(format_duration(duration)) - duration) < MILLISECOND


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(days=30), "30d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=90), "90s"),
        (timedelta(milliseconds=250), "0.25s"),
        (timedelta(seconds=1_234_567), "1234567s"),
        (timedelta(0), "0s"),
    ],
)
def test_a_duration_is_written_with_its_largest_unit(duration, text):
    assert format_duration(duration) == text


def test_the_defaults_stand_by_themselves():
    settings = Settings.load()

    assert settings.data_dir == Path("uploads")
    assert settings.max_upload == 2 * 2**30
    assert settings.retention is None


@pytest.mark.parametrize("text", ["off", "never", "none", "OFF"])
def test_retention_can_be_switched_off(text, monkeypatch):
    monkeypatch.setenv("INTAKE_RETENTION", text)

    assert Settings.load().retention is None


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("INTAKE_PORT", "")

    assert Settings.load().port == 8000


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "intake.toml"
    path.write_text('port = 1111\nmax_upload = "1MiB"\nretention = "30d"\n')
    return path


def test_flags_stand_over_the_environment_over_the_file_over_defaults(file, monkeypatch):
    monkeypatch.setenv("INTAKE_CONFIG", str(file))
    from_file = Settings.load()
    monkeypatch.setenv("INTAKE_PORT", "2222")
    from_environment = Settings.load()
    from_flag = Settings.load(port=3333, max_upload=None)

    assert (from_file.port, from_environment.port, from_flag.port) == (1111, 2222, 3333)
    assert from_flag.max_upload == 2**20
    assert from_flag.retention == timedelta(days=30)
    assert from_flag.host == "127.0.0.1"


def test_a_file_named_by_the_caller_stands_over_the_one_of_the_environment(file, tmp_path, monkeypatch):
    monkeypatch.setenv("INTAKE_CONFIG", str(tmp_path / "other.toml"))

    assert Settings.load(file).port == 1111


def test_one_load_does_not_colour_the_next(file):
    Settings.load(file)

    assert Settings.load().port == 8000


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings.load().port = 1


def refusal(**flags) -> str:
    with pytest.raises(ConfigError) as caught:
        Settings.load(**flags)
    return caught.value.detail


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("INTAKE_MAX_UPLAOD", "INTAKE_MAX_UPLOAD"),
        ("INTAKE_DATADIR", "INTAKE_DATA_DIR"),
        ("INTAKE_CONFIGS", "INTAKE_CONFIG"),
        ("INTAKE_CONFIG_FILE", "INTAKE_CONFIG"),
    ],
)
def test_an_unknown_variable_stops_the_start_with_what_was_meant(name, meant, monkeypatch):
    monkeypatch.setenv(name, "1")

    assert refusal() == f"unknown setting {name}; did you mean {meant}?"


def test_an_unknown_variable_like_nothing_points_to_the_list(monkeypatch):
    monkeypatch.setenv("INTAKE_ZZZZZZZ", "1")

    assert refusal() == "unknown setting INTAKE_ZZZZZZZ; `intake config docs` lists them all"


def test_variables_of_the_tests_and_of_others_are_let_alone(monkeypatch):
    monkeypatch.setenv("INTAKE_TEST_REQUIRE", "nginx")
    monkeypatch.setenv("INTAKES", "5")

    assert Settings.load().port == 8000


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("INTAKE_PORT", "http", "INTAKE_PORT=http: Input should be a valid integer"),
        ("INTAKE_PORT", "70000", "INTAKE_PORT=70000: Input should be less than or equal to 65535"),
        ("INTAKE_MAX_UPLOAD", "huge", "INTAKE_MAX_UPLOAD=huge: is not a size"),
        ("INTAKE_DEADLINE", "soon", "INTAKE_DEADLINE=soon: is not a duration"),
        ("INTAKE_DEADLINE", "0", "INTAKE_DEADLINE=0s: Input should be greater than 0"),
        ("INTAKE_RETENTION", "99999999999999d", "INTAKE_RETENTION=99999999999999d: is not a duration"),
        ("INTAKE_RETENTION", "99999d", "INTAKE_RETENTION=99999d: is not a duration up to 36500d"),
        ("INTAKE_DURABILITY", "maybe", "INTAKE_DURABILITY=maybe: Input should be 'sync' or 'none'"),
        ("INTAKE_ROOT_PATH", "intake/", "INTAKE_ROOT_PATH must look like /intake"),
    ],
)
def test_a_bad_value_is_told_by_the_name_of_its_variable(name, value, why, monkeypatch):
    monkeypatch.setenv(name, value)

    assert refusal().startswith(why)


def test_all_bad_values_are_told_at_once(monkeypatch):
    monkeypatch.setenv("INTAKE_PORT", "x")
    monkeypatch.setenv("INTAKE_WORKERS", "0")

    told = refusal()

    assert "INTAKE_PORT=x" in told
    assert "INTAKE_WORKERS=0" in told


def test_a_bad_flag_is_told_as_well():
    assert refusal(max_upload="huge").startswith("INTAKE_MAX_UPLOAD=huge: is not a size")


def test_an_unknown_key_of_the_file_names_file_and_key(tmp_path):
    path = tmp_path / "intake.toml"
    path.write_text("max_uplaod = 5\n")

    assert refusal(config=path) == f"{path}: unknown setting max_uplaod; did you mean INTAKE_MAX_UPLOAD?"


@pytest.mark.parametrize("text", [b"port = \n", b"port = 1\nport = 2\n", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(text, tmp_path):
    path = tmp_path / "intake.toml"
    path.write_bytes(text)

    assert refusal(config=path).startswith(f"{path}: ")


@pytest.mark.parametrize("value", ["inf", "nan", "1e300"])
def test_a_file_with_such_a_duration_names_the_setting(value, tmp_path):
    path = tmp_path / "intake.toml"
    path.write_text(f"deadline = {value}\n")

    assert refusal(config=path).startswith("INTAKE_DEADLINE=")


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("INTAKE_CONFIG", str(tmp_path / "gone.toml"))

    assert refusal() == f"INTAKE_CONFIG: there is no settings file {tmp_path / 'gone.toml'}"


def test_children_get_the_same_settings_whatever_else_is_set(file, monkeypatch, tmp_path):
    monkeypatch.setenv("INTAKE_RETENTION", "7d")
    monkeypatch.setenv("INTAKE_ROOT_PATH", "/intake")
    settings = Settings.load(
        file, retention="off", root_path="", deadline="1234567s", poll="250ms", min_free=123_456_789, slots=3
    )
    monkeypatch.setenv("INTAKE_CONFIG", str(file))
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    assert Settings.load() == settings
    assert settings.retention is None
    assert settings.root_path == ""


def test_every_setting_is_described():
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("files", "files"),
        ("postgresql://db/records", "postgresql://db/records"),
        ("postgresql://me@db/records", "postgresql://me@db/records"),
        ("postgresql://me:s3cret@db:5433/records", "postgresql://me:***@db:5433/records"),
        ("postgresql://me:s3@cr/et@db/records", "postgresql://me:***@db/records"),
        (
            "postgres://db/r?user=me&password=s3cret&sslpassword=s3cret2",
            "postgres://db/r?user=me&password=***&sslpassword=***",
        ),
    ],
)
def test_the_address_of_the_records_is_shown_without_its_password(url, shown):
    settings = Settings.load(records=url)

    assert settings.model_dump(mode="json")["records"] == shown
    assert not [secret for secret in ("s3cret", "s3@", "cr/et") if secret in repr(settings)]
    assert settings.environment()["INTAKE_RECORDS"] == url


@pytest.mark.parametrize(
    ("url", "bucket"),
    [
        ("s3://files", BucketAddress(bucket="files", prefix="")),
        ("s3://files/", BucketAddress(bucket="files", prefix="")),
        ("s3://files/a/b/", BucketAddress(bucket="files", prefix="a/b/")),
        (
            "s3://files/a?endpoint=https://s3.example.org&region=eu-1",
            BucketAddress(
                bucket="files", prefix="a/", endpoint="https://s3.example.org", region="eu-1", addressing="path"
            ),
        ),
        (
            "s3://files?endpoint=http://127.0.0.1:9000/&addressing=virtual",
            BucketAddress(bucket="files", prefix="", endpoint="http://127.0.0.1:9000", addressing="virtual"),
        ),
    ],
)
def test_bytes_can_be_in_a_bucket(url, bucket):
    settings = Settings.load(storage=url)

    assert settings.bucket == bucket
    assert settings.environment()["INTAKE_STORAGE"] == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("disk", "write `files`, or an address like s3://"),
        ("https://s3.example.org/files", "write `files`, or an address like s3://"),
        ("s3:///prefix", "write `files`, or an address like s3://"),
        ("s3://key:s3cret@files", "INTAKE_S3_CREDENTIALS"),
        ("s3://f", "cannot be the name of a bucket"),
        ("s3://files/a//b", "cannot be a prefix"),
        ("s3://files/../b", "cannot be a prefix"),
        ("s3://files?endpoint=s3.example.org", "endpoint must look like"),
        ("s3://files?endpoint=https://me:s3cret@s3.example.org", "endpoint must look like"),
        ("s3://files?addressing=host", "`path`, `virtual` or `auto`"),
        ("s3://files?regoin=eu", "there is no parameter 'regoin'"),
        ("s3://files?nonsense", "cannot be read"),
        ("s3://files#a", "fragment"),
    ],
)
def test_a_wrong_address_of_the_bytes_is_refused_without_showing_secrets(url, said):
    with pytest.raises(ConfigError) as caught:
        Settings.load(storage=url)

    assert said in str(caught.value)
    assert "INTAKE_STORAGE" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("s3_credentials", "keys"), ("s3_redirect", "5m"), ("scratch", "scratch")])
def test_what_is_for_buckets_alone_is_refused_without_one(name, value):
    with pytest.raises(ConfigError, match=rf"INTAKE_{name.upper()} is for bytes on an S3 server"):
        Settings.load(**{name: value})


def test_signed_addresses_last_for_seven_days_at_most():
    assert Settings.load(storage="s3://files", s3_redirect="7d").s3_redirect == timedelta(days=7)
    with pytest.raises(ConfigError, match="from 1s to 7d"):
        Settings.load(storage="s3://files", s3_redirect="8d")


def test_the_address_of_the_records_can_come_from_a_file(tmp_path):
    file = tmp_path / "records"
    file.write_text("postgresql://me:s3cret@db/records\n")

    settings = Settings.load(records_file=file)

    assert settings.records.get_secret_value() == "postgresql://me:s3cret@db/records"
    assert settings.environment()["INTAKE_RECORDS"] == ""  # who is started by us reads the file again
    with pytest.raises(ConfigError, match="give one of them"):
        Settings.load(records_file=file, records="files")
    with pytest.raises(ConfigError, match=r"INTAKE_RECORDS_FILE=.*No such file"):
        Settings.load(records_file=tmp_path / "none")


def test_a_wrong_address_of_the_records_is_refused_without_showing_it():
    with pytest.raises(ConfigError, match="must be `files`, or begin with postgresql://") as caught:
        Settings.load(records="mysql://me:s3cret@db/records")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://mq/intake", "amqp://mq/intake"),
        ("amqps://me:s3cret@mq:5671/intake", "amqps://me:***@mq:5671/intake"),
        ("redis://:s3cret@cache/0", "redis://:***@cache/0"),
        ("rediss://me:s3@cr/et@cache/0", "rediss://me:***@cache/0"),
    ],
)
def test_the_address_of_the_broker_is_shown_without_its_password(url, shown):
    settings = Settings.load(broker_url=url)

    assert settings.model_dump(mode="json")["broker_url"] == shown
    assert not [secret for secret in ("s3cret", "s3@", "cr/et") if secret in repr(settings)]
    assert settings.environment()["INTAKE_BROKER_URL"] == url


def test_the_address_of_the_broker_can_come_from_a_file(tmp_path):
    file = tmp_path / "broker"
    file.write_text("redis://:s3cret@cache/0\n")

    settings = Settings.load(broker_url_file=file)

    assert settings.broker_url is not None
    assert settings.broker_url.get_secret_value() == "redis://:s3cret@cache/0"
    assert settings.environment()["INTAKE_BROKER_URL"] == ""
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("url", ["kafka://me:s3cret@mq", "amqp:s3cret", "amqp:///s3cret"])
def test_a_wrong_address_of_the_broker_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError, match="INTAKE_BROKER_URL must begin with amqp://") as caught:
        Settings.load(broker_url=url)
    assert "s3cret" not in str(caught.value)


DATABASE = "postgresql://db/records"


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        ({"records": DATABASE}, "INTAKE_ENGINE=celery needs INTAKE_BROKER_URL, such as amqp://"),
        ({"broker_url": "amqp://mq"}, "set INTAKE_RECORDS=postgresql://…, or, .* INTAKE_DATA_SHARED=true"),
        (
            {"broker_url": "amqp://mq", "records": DATABASE, "queues": "images"},
            "no queue images; there are default, image",
        ),
    ],
)
def test_celery_is_refused_what_it_cannot_work_with(members, wanted):
    with pytest.raises(ConfigError, match=wanted):
        Settings.load(engine="celery", **members)


@pytest.mark.parametrize("members", [{"records": DATABASE}, {"data_shared": True}])
def test_celery_takes_records_that_all_workers_see(members):
    settings = Settings.load(engine="celery", broker_url="amqp://mq", queues=" Image, bulk,image ", **members)

    assert settings.queue_names == ("image", "bulk")
    assert Settings.load().queue_names == ("default", "image", "document", "media", "bulk")

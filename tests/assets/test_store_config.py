import json
import stat

import pytest

from assets.errors import StoreError
from assets.store import StoreConfig, find_credentials, has_credentials, make_credentials, write_private

KEYS = {"AWS_ACCESS_KEY_ID": "env-key", "AWS_SECRET_ACCESS_KEY": "env-secret"}


def config(server: str) -> StoreConfig:
    return StoreConfig(server=server, endpoint="http://127.0.0.1:9000", bucket="clipfoundry", region="us-east-1")


def test_keys_of_an_embedded_store_are_random_private_and_made_once(tmp_path):
    assert not has_credentials(config("minio"), tmp_path)
    first = make_credentials(config("minio"), tmp_path)
    assert make_credentials(config("minio"), tmp_path) == first
    other = make_credentials(config("seaweedfs"), tmp_path)
    assert other.secret_key != first.secret_key and len(first.secret_key) == 40
    assert find_credentials(config("minio"), tmp_path, {}) == first
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert first.secret_key not in repr(first)


def test_keys_for_aws_in_the_environment_do_not_lock_an_embedded_store(tmp_path):
    made = make_credentials(config("seaweedfs"), tmp_path)
    assert find_credentials(config("seaweedfs"), tmp_path, KEYS) == made


def test_an_external_store_takes_the_environment_before_the_file(tmp_path):
    (tmp_path / "credentials.json").write_text(json.dumps({"external": {"access_key": "f", "secret_key": "g"}}))
    assert find_credentials(config("external"), tmp_path, KEYS).access_key == "env-key"
    assert find_credentials(config("external"), tmp_path, {}).access_key == "f"


@pytest.mark.parametrize(("lone", "lacking"), [tuple(KEYS), tuple(reversed(KEYS))])
def test_half_a_pair_in_the_environment_is_refused(tmp_path, lone, lacking):
    with pytest.raises(StoreError, match=f"{lone} is set but {lacking} is not.*set {lacking}"):
        find_credentials(config("external"), tmp_path, {lone: "x"})


def test_missing_keys_say_where_they_may_stand(tmp_path):
    with pytest.raises(
        StoreError, match=r"no credentials.*AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.*credentials\.json"
    ):
        find_credentials(config("external"), tmp_path, {})
    with pytest.raises(StoreError, match=r"no credentials for the seaweedfs store.*clipfoundry store start"):
        find_credentials(config("seaweedfs"), tmp_path, {})


@pytest.mark.parametrize("content", ['{"external": {"access_key": "x"}}', '{"external": 3}'])
def test_a_damaged_entry_is_named(tmp_path, content):
    (tmp_path / "credentials.json").write_text(content)
    with pytest.raises(StoreError, match="external lacks access_key or secret_key"):
        find_credentials(config("external"), tmp_path, {})


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(StoreError, match="not readable as JSON"):
        find_credentials(config("external"), tmp_path, {})


def test_a_private_file_replaces_an_open_one_with_mode_0600(tmp_path):
    path = tmp_path / "keys"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(("endpoint", "port"), [("https://s3.example.org", 443), ("http://s3.example.org", 80)])
def test_the_port_follows_the_scheme(endpoint, port):
    external = config("external").model_copy(update={"endpoint": endpoint})
    assert external.port == port
    assert not external.embedded

from pathlib import Path

import pytest

from assets.errors import ConfigError
from pipelines.params import load_params
from pipelines.profiles import current_profile, list_profiles, select_profile

PROFILES = Path(__file__).resolve().parents[2] / "profiles"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "small.yaml").write_text("# for a laptop\nprofile: small\n")
    (tmp_path / "profiles" / "large.yaml").write_text("# for a server\nprofile: large\n")
    (tmp_path / "profiles" / "bare.yaml").write_text("profile: bare\n")
    return tmp_path


def test_profiles_are_listed_with_their_first_comment(root):
    assert list_profiles(root) == {"bare": "", "large": "for a server", "small": "for a laptop"}


def test_selecting_copies_the_profile_byte_for_byte_and_twice_changes_nothing(root):
    assert current_profile(root) is None
    first = select_profile("small", root)
    assert (first.changed, first.backup) == (True, None)
    assert (root / "params.yaml").read_bytes() == (root / "profiles" / "small.yaml").read_bytes()
    assert current_profile(root) == "small"
    assert select_profile("small", root).changed is False


def test_one_profile_replaces_another_without_force(root):
    select_profile("small", root)
    assert select_profile("large", root).backup is None
    assert current_profile(root) == "large"
    assert not (root / "params.yaml.bak").exists()


def test_an_edited_file_is_refused_then_kept_with_force(root):
    edited = "profile: small\nmine: 1\n"
    (root / "params.yaml").write_text(edited)
    with pytest.raises(ConfigError, match=r"was edited.*profile large --force"):
        select_profile("large", root)
    assert (root / "params.yaml").read_text() == edited
    selection = select_profile("large", root, force=True)
    assert selection.backup == root / "params.yaml.bak"
    assert selection.backup.read_text() == edited
    assert current_profile(root) == "large"


def test_an_unknown_name_gets_the_nearest_one(root):
    with pytest.raises(
        ConfigError, match=r"unknown profile 'lrge' \(did you mean 'large'\?\); valid: bare, large, small"
    ):
        select_profile("lrge", root)


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_valid_described_and_named_after_its_file(path):
    assert load_params(path).profile == path.stem
    assert list_profiles(PROFILES.parent)[path.stem]

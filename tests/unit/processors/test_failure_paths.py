"""What a failure tells of the machine."""

import pytest

from processors.failure import failure_of


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (PermissionError(13, "Permission denied", "/srv/intake/uploads/jobs/x/job.json"), "'…/job.json'"),
        (ValueError("cannot read /etc/secret.conf now"), "cannot read …/secret.conf now"),
        (ValueError("a ratio of 3/4, and and/or"), "a ratio of 3/4, and and/or"),
        (ValueError("see https://example.org/a/b"), "https://example.org/a/b"),
    ],
)
def test_the_folders_of_a_path_are_nobodys_business(error: Exception, shown: str) -> None:
    assert shown in failure_of(error, input_path="/in").detail

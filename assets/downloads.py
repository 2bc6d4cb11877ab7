"""How this machine downloads pictures."""

from pydantic import Field

from assets.section import Section


class DownloadMachine(Section):
    """The program that fetches pictures, and how much of it at a time. No value here changes a picture."""

    processes: int = Field(default=0, ge=0, le=1024)
    """Processes of img2dataset, which decode and resize; 0 takes one per core."""
    threads: int = Field(default=32, ge=1, le=1024)
    """Addresses that each of these processes waits for at a time. More are faster until the line or the name server is
    overloaded; then addresses fail that would not have to."""
    command: str = Field(default=".img2dataset/bin/img2dataset", min_length=1)
    """The program: a path or a name in PATH."""

"""docs/benchmarks.md has two authors: what one of them measures anew must not take away what the other measured."""

SERVER = "## The server under load"


def with_server_section(page: str, section: str) -> str:
    """A page with this as its last section, instead of an older one."""
    return page.partition(SERVER)[0].rstrip() + "\n\n" + section


def server_section(page: str) -> str:
    """The section as it stands in a page, nothing if there is none."""
    _, heading, rest = page.partition(SERVER)
    return heading + rest

"""docs/benchmarks.md has several authors: what one of them measures again must not take away what another measured."""

STRENGTH = "## How strong each attack is"
ATTACKS = "## Every attack, a short run"
SERVER = "## The server under load"
# In the order of the page, after the gradient's own sections.
SECTIONS = (STRENGTH, ATTACKS, SERVER)


def with_section(page: str, section: str) -> str:
    """A page with this section in its place, instead of an older one with that heading."""
    (heading,) = (heading for heading in SECTIONS if section.startswith(heading))
    sections = {name: section_of(page, name) for name in SECTIONS} | {heading: section}
    start = min(page.find(name) % (len(page) + 1) for name in SECTIONS)
    parts = [page[:start], *(sections[name] for name in SECTIONS)]
    return "\n\n".join(part.rstrip() for part in parts if part.strip()) + "\n"


def section_of(page: str, heading: str) -> str:
    """The section of that heading as it stands in a page, nothing if there is none."""
    _, found, rest = page.partition(heading)
    for other in SECTIONS:
        rest = rest.partition(other)[0]
    return (found + rest).rstrip() + "\n" if found else ""

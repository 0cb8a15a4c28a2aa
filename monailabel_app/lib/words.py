"""Sentences of the core, which name options of its command line, as a client of the server would say them."""

import re

# Options that are fields of a request here, too; others are left as they are.
FIELDS = (
    "alpha",
    "attack",
    "device",
    "eps",
    "goal",
    "label",
    "label-map",
    "max-eps",
    "n",
    "n0",
    "norm",
    "roi",
    "seed",
    "sigma",
    "steps",
    "target",
    "tau",
    "victim",
)
OPTION = re.compile(rf"--({'|'.join(sorted(FIELDS, key=len, reverse=True))})(?![\w-])")
# Switches: of these it takes more than the name.
PHRASES = {
    "pass --force": "send 'force' as true",
    "add --allow-cut-gradient to go on all the same": "choose another of the server's models",
    "add --trust if you trust": "only the server's operator can decide at its start to trust",
}


def for_clients(text: str) -> str:
    """ "map them with --label-map" becomes "map them with 'label_map'"."""
    for said, meant in PHRASES.items():
        text = text.replace(said, meant)
    return OPTION.sub(lambda option: f"'{option[1].replace('-', '_')}'", text)

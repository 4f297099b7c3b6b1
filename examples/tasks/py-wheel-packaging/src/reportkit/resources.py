"""Access to the templates and translations of the package."""

import json


def template(name):
    with open(f"reportkit/templates/{name}") as handle:
        return handle.read()


def texts(language):
    with open(f"reportkit/locale/{language}/texts.json") as handle:
        return json.load(handle)

"""How the cookbook was installed: what another environment has to ask pip for."""

import json
import re
from importlib.metadata import Distribution, distribution

NAME = "pyro-cookbook"


def requirement(installed: Distribution | None = None) -> str:
    """Write the line for pip that installs this very cookbook.

    Parameters
    ----------
    installed : importlib.metadata.Distribution, optional
        Default: that of the running cookbook.

    Returns
    -------
    str
        ``pyro-cookbook @ git+https://…@commit`` of a repository, ``pyro-cookbook @ file://…`` of a
        folder, ``-e folder`` of an editable one, else ``pyro-cookbook==version``.

    References
    ----------
    PEP 610, which says what ``direct_url.json`` holds; PEP 440 for the form ``name @ url``.
    """
    found = installed or distribution(NAME)
    text = found.read_text("direct_url.json")
    if text is None:
        return f"{NAME}=={found.version}"
    told = json.loads(text)
    # Installers strip passwords; one that slipped through is not handed on.
    url = re.sub(r"(?<=://)[^/@]*:[^/@]*@", "", told["url"])
    subdirectory = f"#subdirectory={told['subdirectory']}" if told.get("subdirectory") else ""
    if vcs := told.get("vcs_info"):
        return f"{NAME} @ {vcs['vcs']}+{url}@{vcs['commit_id']}{subdirectory}"
    if told.get("dir_info", {}).get("editable"):
        plain = "%" not in url  # pip reads a path as it is, and an address decoded
        return f"-e {url.removeprefix('file://') if plain else url}"
    return f"{NAME} @ {url}{subdirectory}"


def licence(installed: Distribution | None = None) -> str | None:
    """Give the text of the licence, where the installation has it."""
    return (installed or distribution(NAME)).read_text("licenses/LICENSE")

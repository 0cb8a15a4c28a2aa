"""What the site's generator can't know: pages link to files of the repository, which the site shows on the web."""

import json
import posixpath
import re

LINK = re.compile(r"(\]\()((?:\.\./)+[^)#\s]*|[\w/]+\.ipynb)")


def on_page_markdown(markdown, page, config, files):
    """Links that leave docs/ go to the repository; notebooks' source is shown as the page it makes."""
    here = posixpath.dirname(posixpath.join("docs", page.file.src_uri))

    def outside(match):
        target = posixpath.normpath(posixpath.join(here, match[2]))
        if target.startswith("docs/"):
            return match[0].replace(".ipynb", ".md")
        return f"{match[1]}{config['repo_url']}/blob/main/{target}"

    return LINK.sub(outside, markdown)


def on_files(files, config):
    """A notebook becomes a page: its text, and its code as blocks."""
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        cells = json.loads(file.content_string)["cells"]
        blocks = (
            "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
            for cell in cells
        )
        page = file.src_uri.removesuffix(".ipynb") + ".md"
        files.append(File.generated(config, page, content="\n\n".join(blocks)))
    return files

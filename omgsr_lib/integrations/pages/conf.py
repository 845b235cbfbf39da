"""Settings of Sphinx: no code is executed, and no page asks for anything outside its folder."""

project = "OMGSR, reproduced"
author = "The OMGSR Reproduction contributors"
html_title = project
extensions = ["myst_nb", "omgsr_lib.integrations.pages.svg_math"]
exclude_patterns = ["_copied"]

nb_execution_mode = "off"
nb_ipywidgets_js = {}
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of libraries to whoever runs a notebook
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_math_renderer = "svg"
html_static_path = ["static"]
html_css_files = ["pages.css"]
html_show_copyright = html_show_sphinx = False
html_copy_source = True
html_show_search_summary = False  # it would fetch the pages, which a browser refuses from the disk
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "pygments_light_style": "tango",
    "secondary_sidebar_items": {"index": ["page-toc"], "notebooks/*": ["page-toc"]},
}

"""The study as a static site: executed notebooks, report and explorer, built by Sphinx (`make pages`)."""

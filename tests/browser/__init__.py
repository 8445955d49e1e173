"""The examples' pages in a real browser; `.ci/run` runs these where it can have Chromium."""

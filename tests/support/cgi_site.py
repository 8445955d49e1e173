"""One CGI request: `python -m tests.support.cgi_site pkg.mod:attr`, as a web server runs it."""

import importlib
import sys
from wsgiref.handlers import CGIHandler

if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    CGIHandler().run(getattr(importlib.import_module(module), name))

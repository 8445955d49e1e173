"""A CPU-bound Flask view on uvicorn, in one process of each Python: with a GIL, and without one.

`python -m benchmarks.pythons PYTHON...`, each of which has the extra `examples`. The app is below.
"""

import sys
from functools import partial

WORK = 60_000  # additions, about 5 ms
ROUNDS, SECONDS, CONNECTIONS = 5, 3.0, 8
WORDS = ["-m", "uvicorn", "benchmarks.pythons:app", "--log-level", "error", "--port", "{port}"]


def main(pythons: list[str]) -> None:
    from .contest import compete
    from .servers import contender
    from .wire import Case, check_and_warm_up, loaded

    for target, answer in (("/work", b"%d" % sum(range(WORK))), ("/hello", b"hello")):
        case = Case(target, "", target, CONNECTIONS, answer)
        works = partial(check_and_warm_up, case), partial(loaded, case, SECONDS)
        rivals = {python: contender([python, *WORDS], *works) for python in pythons}
        row = compete(target, None, CONNECTIONS, rivals, ROUNDS)
        for python, figures in row.figures.items():
            sys.stdout.write(f"{target} {figures['requests_per_second'].median:,.0f}/s {python}\n")
        sys.exit(str(row.refused)) if row.refused else None


if __name__ == "__main__":
    main(sys.argv[1:])
else:
    from flask import Flask

    from wsgi_asgi_bridge import WSGIToASGI

    flask_app = Flask(__name__)
    flask_app.add_url_rule("/hello", "hello", lambda: "hello")

    @flask_app.get("/work")
    def work() -> str:
        total = 0
        for number in range(WORK):
            total += number
        return str(total)

    app = WSGIToASGI(flask_app)

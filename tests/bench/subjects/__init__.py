"""One module for each thing that is measured. Each runs as a process: `python -m tests.bench.subjects.NAME BOOTSTRAP PREFIX FOLDER [...]`.

It consumes `PREFIX.in`, keeps balances with a changelog, and produces one record to `PREFIX.out` for each input, until SIGTERM.
"""

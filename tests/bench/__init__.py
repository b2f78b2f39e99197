"""`make bench`: this engine beside its peers and beside bare loops, on one machine in one run. See tests/bench/__main__.py."""

"""``python -m assets.deliveries OPERATION``: what ``clipfoundry batches`` starts."""

import argparse
import sys

from assets.command import guarded
from assets.deliveries.commands import add_arguments

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="clipfoundry batches", description="Deliveries of new shards to a data set.")
    add_arguments(parser)
    options = parser.parse_args()
    sys.exit(guarded(lambda: options.operation(options)))

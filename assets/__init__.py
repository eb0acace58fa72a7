"""The asset graph: one file per stage, in the order the data flows."""

import gc

# Whatever Dagster has made by now stays. Without this the collector walks all of it several times
# while our modules are imported: a good part of the time until the code location is loaded.
gc.freeze()

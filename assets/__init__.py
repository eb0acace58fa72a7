"""The asset graph: one file per stage, in the order the data flows."""

"""One loop that draws chains for everybody: its plan, trace and on-disk store."""

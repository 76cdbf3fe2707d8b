"""Search spaces: how their points are read, drawn and encoded."""

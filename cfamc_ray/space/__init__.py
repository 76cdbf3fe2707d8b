"""What is searched: points of a space, and how they are read, drawn and encoded."""

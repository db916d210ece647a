"""Records and their codecs: what flows through Syncline, without I/O."""
